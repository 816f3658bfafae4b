"""qcow2 images, made by qemu-img."""

from __future__ import annotations

import contextlib
import random
import subprocess
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdxstack.errors import SystemFault, WireError
from tdxstack.vm.disk import opened
from tdxstack.wire.block import reader_of
from tdxstack.wire.qcow2 import Qcow2

pytestmark = pytest.mark.processes
SIZE = 3 << 20
CONTENT = (random.Random(2).randbytes(200_000) + b"text " * 60_000).ljust(SIZE, b"\0")


def qemu(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def made(folder: Path, *options: str) -> Path:
    (folder / "raw").write_bytes(CONTENT)
    qemu("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, str(folder / "raw"), str(folder / "qcow2"))
    return folder / "qcow2"


@pytest.mark.parametrize("options", [(), ("-c",), ("-o", "compat=0.10"), ("-o", "cluster_size=4k"), ("-S", "0")])
def test_content(options: tuple[str, ...], tmp_path: Path) -> None:
    with opened(made(tmp_path, *options)) as read:
        assert read(0, SIZE + 5) == CONTENT
        assert read(199_990, 100_000) == CONTENT[199_990:299_990]
        assert read(SIZE, 10) == b""


def test_an_overlay_over_an_overlay(tmp_path: Path) -> None:
    base = made(tmp_path)
    for name, backing in (("one", base), ("two", tmp_path / "one")):
        qemu("qemu-img", "create", "-f", "qcow2", "-b", backing.name, "-F", "qcow2", str(tmp_path / name))
    qemu("qemu-io", "-f", "qcow2", "-c", "write -P 7 100000 70000", "-c", "write -z 1M 64k", str(tmp_path / "two"))
    expected = bytearray(CONTENT)
    expected[100_000:170_000] = b"\7" * 70_000
    expected[1 << 20 : (1 << 20) + 65536] = bytes(65536)
    with opened(tmp_path / "two") as read:
        assert read(0, SIZE) == expected


def test_faults_are_named(tmp_path: Path) -> None:
    qemu("qemu-img", "create", "-f", "qcow2", str(tmp_path / "zstd"), "-o", "compression_type=zstd", "1M")
    with pytest.raises(WireError, match="incompatible_features"), opened(tmp_path / "zstd"):
        pass
    (tmp_path / "loop").write_bytes(b"")
    qemu("qemu-img", "create", "-u", "-f", "qcow2", "-b", "loop", "-F", "qcow2", str(tmp_path / "loop"), "1M")
    with pytest.raises(WireError, match="chain"), opened(tmp_path / "loop"):
        pass
    with pytest.raises(SystemFault), opened(tmp_path / "none"):
        pass


@cache
def small() -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return made(Path(folder), "-c").read_bytes()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 300_000), st.binary(min_size=1, max_size=16)), max_size=6))
def test_damage_gives_wire_errors(damage: list[tuple[int, bytes]]) -> None:
    image = bytearray(small())
    for where, noise in damage:
        image[where : where + len(noise)] = noise
    try:
        disk = Qcow2(reader_of(bytes(image)))
        disk.read(0, min(disk.size, SIZE))
    except WireError:
        pass


@given(st.binary(max_size=200))
def test_noise_gives_wire_errors(noise: bytes) -> None:
    with contextlib.suppress(WireError):
        Qcow2(reader_of(b"QFI\xfb" + noise))

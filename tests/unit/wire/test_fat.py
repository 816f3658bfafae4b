"""FAT file systems, made by mtools."""

from __future__ import annotations

import random
import subprocess
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdxstack.errors import WireError
from tdxstack.wire.block import reader_of
from tdxstack.wire.fat import FatVolume

pytestmark = pytest.mark.processes
CONTENT = random.Random(1).randbytes(70_001)
KIB = {12: 1440, 16: 16 << 10, 32: 40 << 10}


def made(folder: Path, bits: int) -> bytes:
    image, source = folder / f"fat{bits}", folder / "content"
    source.write_bytes(CONTENT)
    kind = ["-F"] if bits == 32 else []
    size = ["-f", "1440"] if bits == 12 else ["-T", str(KIB[bits] * 2), "-h", "16", "-s", "63"]

    def run(program: str, *words: str) -> None:
        subprocess.run([program, "-i", str(image), *words], check=True, capture_output=True)

    run("mformat", "-C", *size, *kind, "::")
    for name in ("EFI", "EFI/BOOT", "EFI/A rather long directory name"):
        run("mmd", f"::{name}")
    for name in ("EFI/BOOT/BOOTX64.EFI", "EFI/A rather long directory name/grub.cfg.with-a-tail", "lower.txt"):
        run("mcopy", str(source), f"::{name}")
    source.write_bytes(b"")
    run("mcopy", str(source), "::empty")
    return image.read_bytes()


@pytest.fixture(scope="module", params=sorted(KIB))
def volume(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FatVolume:
    found = FatVolume(reader_of(made(tmp_path_factory.mktemp("fat"), request.param)))
    assert found.bits == request.param
    return found


def test_files_by_any_spelling(volume: FatVolume) -> None:
    for path in ("EFI/BOOT/BOOTX64.EFI", "\\efi\\boot\\bootx64.efi", "/Lower.TXT"):
        assert volume.file(path) == CONTENT
    assert volume.file("efi/A RATHER long directory name/grub.cfg.with-a-tail") == CONTENT
    assert volume.file("empty") == b""


def test_what_is_not_there(volume: FatVolume) -> None:
    for path in ("EFI", "EFI/none", "lower.txt/x", "/".join("x" * 100), ""):
        assert volume.file(path) is None
    assert volume.listing("lower.txt") is None
    assert volume.listing("nowhere") is None


def test_listing(volume: FatVolume) -> None:
    names = {entry.name: (entry.directory, entry.size) for entry in volume.listing() or ()}
    assert names == {"EFI": (True, 0), "lower.txt": (False, len(CONTENT)), "empty": (False, 0)}
    assert [entry.name for entry in volume.listing("EFI") or ()] == ["BOOT", "A rather long directory name"]


@cache
def floppy() -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return made(Path(folder), 12)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20_000), st.binary(min_size=1, max_size=40)), max_size=8))
def test_damage_gives_wire_errors(damage: list[tuple[int, bytes]]) -> None:
    image = bytearray(floppy())
    for where, noise in damage:
        image[where : where + len(noise)] = noise
    try:
        volume = FatVolume(reader_of(bytes(image)))
        for path in ("EFI/BOOT/BOOTX64.EFI", "lower.txt"):
            volume.file(path)
        volume.listing("EFI")
    except WireError:
        pass


@pytest.mark.parametrize("image", [b"", bytes(512), bytes(510) + b"\x55\xaa", b"\xff" * 512])
def test_no_file_system(image: bytes) -> None:
    with pytest.raises(WireError):
        FatVolume(reader_of(image))


def test_a_loop_in_a_chain_ends() -> None:
    image = bytearray(floppy())
    start = 512 + 2 * 3 // 2
    # cluster 2 (the directory EFI) leads to itself
    image[start : start + 2] = (2 | image[start + 1] >> 4 << 12).to_bytes(2, "little")
    assert FatVolume(reader_of(bytes(image))).listing("EFI") is not None

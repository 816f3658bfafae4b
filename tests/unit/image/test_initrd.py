"""The initrd's archive, read back with a reader of this test's own."""

from __future__ import annotations

import lzma
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.image.initrd import BLOCK, build_initrd, cpio_archive, main, module_order


def members(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Path -> (mode, content) of a newc archive (buffer-format.rst of the kernel)."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        name_at = at + 110
        name = archive[name_at : name_at + fields[11] - 1].decode()
        data_at = (name_at + fields[11] + 3) & ~3
        if name == "TRAILER!!!":
            return found
        found[name] = (fields[1], archive[data_at : data_at + fields[6]])
        at = (data_at + fields[6] + 3) & ~3


@given(st.dictionaries(st.text("abcd/", min_size=1).filter(lambda n: not n.startswith("/")), st.binary(max_size=99)))
def test_archive_reads_back(files: dict[str, bytes]) -> None:
    archive = cpio_archive([(name, stat.S_IFREG | 0o644, data) for name, data in files.items()])
    read = members(archive)
    assert {name: data for name, (_, data) in read.items() if name in files} == files
    assert read["dev/console"][0] == stat.S_IFCHR | 0o600
    assert len(archive) % BLOCK == 0


DEPENDENCIES = """kernel/a/sd_mod.ko.xz: kernel/a/scsi_mod.ko.xz kernel/a/scsi_common.ko.xz
kernel/a/scsi_mod.ko.xz: kernel/a/scsi_common.ko.xz
kernel/a/scsi_common.ko.xz:
kernel/b/virtio-blk.ko:
"""


def test_modules_come_after_what_they_need() -> None:
    order = module_order(DEPENDENCIES, ["virtio_blk", "sd_mod", "scsi_mod", "built_in"])
    assert order == [
        "kernel/b/virtio-blk.ko",
        "kernel/a/scsi_common.ko.xz",
        "kernel/a/scsi_mod.ko.xz",
        "kernel/a/sd_mod.ko.xz",
    ]


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    folder = tmp_path / "usr/lib/modules/6.12"
    for name, data in {
        "a/sd_mod.ko.xz": lzma.compress(b"sd"),
        "a/scsi_mod.ko.xz": lzma.compress(b"scsi"),
        "a/scsi_common.ko.xz": lzma.compress(b"common"),
        "b/virtio-blk.ko": b"blk",
    }.items():
        path = folder / "kernel" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (folder / "modules.dep").write_text(DEPENDENCIES)
    return folder


def test_initrd_has_init_busybox_and_modules_decompressed(modules: Path) -> None:
    archive = build_initrd(modules, b"busybox", b"#!init", ["virtio_blk"], ["sd_mod", "virtio_blk"])
    read = members(archive)
    assert read["init"] == (stat.S_IFREG | 0o755, b"#!init")
    assert read["bin/busybox"] == (stat.S_IFREG | 0o755, b"busybox")
    assert read["modules/first"][1] == b"virtio_blk.ko\n"
    assert read["modules/second"][1] == b"scsi_common.ko\nscsi_mod.ko\nsd_mod.ko\n"
    assert read["modules/sd_mod.ko"][1] == b"sd"
    assert read["modules/virtio_blk.ko"][1] == b"blk"
    assert {"bin", "dev", "proc", "root", "sys"} <= set(read)
    assert archive == build_initrd(modules, b"busybox", b"#!init", ["virtio_blk"], ["sd_mod", "virtio_blk"])


def test_program_writes_it(modules: Path, tmp_path: Path) -> None:
    (tmp_path / "bb").write_bytes(b"busybox")
    (tmp_path / "init").write_bytes(b"init")
    output = tmp_path / "initrd.img"
    main([str(tmp_path), str(tmp_path / "bb"), str(tmp_path / "init"), str(output), "virtio_blk", ""])
    assert members(output.read_bytes())["modules/second"][1] == b""


def test_two_kernels_are_refused(modules: Path, tmp_path: Path) -> None:
    (modules.parent / "6.13").mkdir()
    with pytest.raises(SystemExit, match=r"6\.13"):
        main([str(tmp_path), "bb", "init", "out", "", ""])

"""EFI images in a raw disk's file systems, found and replaced without mounts: FAT by mtools, ext4 by debugfs.

Only the partition's own bytes are written, and of those only what the file system changes for the file. The caller
works on a copy of the disk.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tdxstack.errors import PlatformMissing, SystemFault, UsageError, WireError
from tdxstack.image import ext_files
from tdxstack.image.efi_programs import program_kind
from tdxstack.image.mkosi_config import SOURCE_DATE_EPOCH
from tdxstack.system.process import run
from tdxstack.wire.block import SECTOR, ReadAt
from tdxstack.wire.fat import FatVolume
from tdxstack.wire.gpt import ESP_TYPE, Gpt, Partition

SECONDS = 300.0
#: Directories of a Linux file system where kernels lie: of the root, or of a partition that is mounted at /boot.
KERNEL_DIRECTORIES = ("/boot", "/")
MAX_DEPTH = 8


@dataclass(frozen=True, slots=True)
class DiskFile:
    """An EFI image in a disk. ``offset`` is where its partition starts, in bytes; ``kind`` says what it is."""

    partition: int
    offset: int
    file_system: str
    path: str
    kind: str
    data: bytes


def find(disk: Path) -> list[DiskFile]:
    """The EFI images of a raw disk: everything on EFI system partitions, kernels of ext4 file systems.

    Raises:
        UsageError: the disk has no GUID partition table.
        SystemFault: it cannot be read.
    """
    found: list[DiskFile] = []
    try:
        with disk.open("rb") as stream:

            def read(offset: int, length: int) -> bytes:
                stream.seek(offset)
                return stream.read(length)

            for partition in Gpt.from_disk(read).partitions:
                found += _in_partition(disk, read, partition)
    except WireError as error:
        raise UsageError(f"{disk}: {error}", hint="give a disk image with a GUID partition table") from None
    except OSError as error:
        raise SystemFault(f"{disk}: {error.strerror or error}") from None
    return found


def _in_partition(disk: Path, read: ReadAt, partition: Partition) -> Iterator[DiskFile]:
    offset = partition.first_lba * SECTOR
    if partition.type_guid == ESP_TYPE:
        volume = FatVolume(partition.reader(read))
        files: Iterator[tuple[str, bytes]] = _fat_files(volume, "", 0)
        system = "vfat"
    elif ext_files.is_ext(partition.reader(read)):
        files = _kernels(disk, offset)
        system = "ext4"
    else:
        return
    for path, data in files:
        if kind := program_kind(path, data):
            yield DiskFile(partition.number, offset, system, path, kind, data)


def _fat_files(volume: FatVolume, folder: str, depth: int) -> Iterator[tuple[str, bytes]]:
    for entry in volume.listing(folder) or ():
        path = f"{folder}/{entry.name}"
        if entry.directory:
            if depth < MAX_DEPTH:
                yield from _fat_files(volume, path, depth + 1)
        elif (data := volume.file(path)) and data[:2] == b"MZ":
            yield path, data


def _kernels(disk: Path, offset: int) -> Iterator[tuple[str, bytes]]:
    for folder in KERNEL_DIRECTORIES:
        for name in ext_files.listing(disk, offset, folder):
            if name.startswith("vmlinuz"):
                path = f"{folder.rstrip('/')}/{name}"
                yield path, ext_files.read(disk, offset, path)


def replace(disk: Path, file: DiskFile, data: bytes) -> None:
    """Put ``data`` in the place of a file that was found; what is there afterwards is read back.

    Raises:
        SystemFault: the file system has no room, or the program failed.
    """
    if file.file_system == "ext4":
        ext_files.replace(disk, file.offset, file.path, data)
        return
    with tempfile.TemporaryDirectory(prefix="tdxstack-fat-") as folder:
        source = Path(folder) / "file"
        source.write_bytes(data)
        os.utime(source, (SOURCE_DATE_EPOCH, SOURCE_DATE_EPOCH))
        # -D o: overwrite without asking; -m: with the source's time, so that the same file leaves the same bytes.
        argv = ["mcopy", "-m", "-D", "o", "-i", f"{disk}@@{file.offset}", str(source), f"::{file.path}"]
        run(argv, timeout=SECONDS, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"})
    with disk.open("rb") as stream:

        def read(offset: int, length: int) -> bytes:
            stream.seek(file.offset + offset)
            return stream.read(length)

        if FatVolume(read).file(file.path) != data:
            raise SystemFault(f"{disk}: {file.path} was not written", hint="has its file system room? (mdir -i)")


def require_known(disk: Path, files: list[DiskFile]) -> None:
    """Refuse a disk in which nothing was found.

    Raises:
        PlatformMissing: no EFI image: no boot loader on an ESP and no kernel on ext4.
    """
    if not files:
        raise PlatformMissing(
            f"{disk}: no EFI image on an EFI system partition, and no kernel in /boot of an ext4 file system",
            hint="build an image that boots by itself: tdxctl image build debian-13 --boot uki",
        )

"""A disk of a megabyte that stands in for a TD's while its firmware is probed.

It has one partition with a FAT12 file system; in it are the marker kernel where firmware looks for a boot loader, and
the firmware's own file of variables if the TD's disk has one. Firmware names a disk without a partition differently.

Source: Microsoft, "FAT: General Overview of On-Disk Format", version 1.03.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

_SECTOR = 512
_SECTORS = 2880
_FIRST = 64
_TYPE_ESP = 0xEF
_TABLE_SECTORS = 9
_ROOT_ENTRIES = 224
_RESERVED = 1
_ROOT_AT = (_RESERVED + 2 * _TABLE_SECTORS) * _SECTOR
_DATA_AT = _ROOT_AT + _ROOT_ENTRIES * 32
_DIRECTORY, _ARCHIVE = 0x10, 0x20
_END = 0xFFF


def marker_disk(loader: bytes, variables: bytes | None = None) -> bytes:
    """The image: 1.5 MB, the same bytes for the same arguments.

    Args:
        loader: content of ``EFI/BOOT/BOOTX64.EFI``.
        variables: content of ``NvVars``.
    """
    disk = _Disk()
    boot = disk.directory([_entry("BOOTX64 EFI", disk.store(loader), len(loader), _ARCHIVE)])
    efi = disk.directory([_entry("BOOT       ", boot, 0, _DIRECTORY)])
    root = [_entry("EFI        ", efi, 0, _DIRECTORY)]
    if variables is not None:
        root.append(_entry("NVVARS     ", disk.store(variables), len(variables), _ARCHIVE))
    return disk.finished(root)


@dataclass(slots=True)
class _Disk:
    image: bytearray = field(default_factory=lambda: bytearray(_SECTORS * _SECTOR))
    chain: list[int] = field(default_factory=lambda: [0xFF0, _END])

    def store(self, content: bytes) -> int:
        """Put content into the next free clusters (of one sector); the first of them."""
        first = len(self.chain)
        count = max(1, -(-len(content) // _SECTOR))
        start = _DATA_AT + (first - 2) * _SECTOR
        if start + count * _SECTOR > len(self.image):
            raise ValueError(f"{len(content)} bytes do not fit the marker disk")
        self.image[start : start + len(content)] = content
        self.chain += [*range(first + 1, first + count), _END]
        return first

    def directory(self, entries: list[bytes]) -> int:
        here = len(self.chain)
        dots = [_entry(".          ", here, 0, _DIRECTORY), _entry("..         ", 0, 0, _DIRECTORY)]
        return self.store(b"".join([*dots, *entries]))

    def finished(self, root: list[bytes]) -> bytes:
        fields = (_SECTOR, 1, _RESERVED, 2, _ROOT_ENTRIES, _SECTORS, 0xF0, _TABLE_SECTORS, 18, 2, 0, 0)
        self.image[0:11] = b"\xeb\x3c\x90TDXSTACK"
        struct.pack_into("<HBHBHHBHHHII", self.image, 11, *fields)
        struct.pack_into("<BBBI11s8s", self.image, 36, 0x80, 0, 0x29, 0x54445831, b"MARKER     ", b"FAT12   ")
        self.image[510:512] = b"\x55\xaa"
        table = bytearray(_TABLE_SECTORS * _SECTOR)
        for cluster, value in enumerate(self.chain):
            at = cluster * 3 // 2
            pair = int.from_bytes(table[at : at + 2], "little")
            pair |= value << 4 if cluster & 1 else value
            table[at : at + 2] = pair.to_bytes(2, "little")
        for number in range(2):
            start = (_RESERVED + number * _TABLE_SECTORS) * _SECTOR
            self.image[start : start + len(table)] = table
        listing = b"".join(root)
        self.image[_ROOT_AT : _ROOT_AT + len(listing)] = listing
        return _master_boot_record() + bytes(self.image)


def _master_boot_record() -> bytes:
    """The sectors in front of the file system: a partition table with one EFI system partition."""
    sectors = bytearray(_FIRST * _SECTOR)
    no_geometry = b"\xfe\xff\xff"
    struct.pack_into("<B3sB3sII", sectors, 446, 0, no_geometry, _TYPE_ESP, no_geometry, _FIRST, _SECTORS)
    sectors[510:512] = b"\x55\xaa"
    return bytes(sectors)


def _entry(name: str, cluster: int, size: int, attributes: int) -> bytes:
    """A directory entry; ``name`` is the 8.3 name without its dot, 11 characters."""
    return struct.pack("<11sB14xHI", name.encode("ascii"), attributes, cluster, size)

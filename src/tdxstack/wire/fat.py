"""FAT12, FAT16 and FAT32 file systems, read only: what firmware finds on an EFI system partition.

Source: Microsoft, "FAT: General Overview of On-Disk Format", version 1.03 (EFI FAT32 File System Specification).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from tdxstack.errors import WireError
from tdxstack.wire.block import ReadAt, exactly

_BPB = struct.Struct("<HBHBHHBHHHII")
_BPB_AT = 11
_DIRECTORY, _VOLUME_LABEL, _LONG_NAME = 0x10, 0x08, 0x0F
_ENTRY_SIZE = 32
_LOWER_BASE, _LOWER_EXTENSION = 0x08, 0x10
_TABLE_BLOCK = 64 << 10
#: Bounds on what a damaged or hostile file system can make us read.
MAX_FILE = 1 << 30
MAX_DIRECTORY = 4 << 20
MAX_DEPTH = 32
MAX_TABLE = 256 << 20
#: Marks of the end of a chain, by the bits of a table entry.
_END = {12: 0xFF8, 16: 0xFFF8, 32: 0x0FFFFFF8}


@dataclass(frozen=True, slots=True)
class FatEntry:
    """A file or directory: its long name (or the short one), first cluster and size in bytes."""

    name: str
    short_name: str
    directory: bool
    cluster: int
    size: int


class FatVolume:
    """A FAT file system behind a reader. Paths are separated by ``/`` or ``\\``; case does not count.

    Args:
        read: a reader of the partition.

    Raises:
        WireError: no FAT file system.
    """

    def __init__(self, read: ReadAt) -> None:
        boot = exactly(read, "FAT", "boot sector", 0, 512)
        fields = _BPB.unpack_from(boot, _BPB_AT)
        sector, per_cluster, reserved, fats, root_entries, total16, _, fat16, _, _, _, total32 = fields
        (fat32,) = struct.unpack_from("<I", boot, 36)
        if sector not in (512, 1024, 2048, 4096) or boot[510:512] != b"\x55\xaa":
            raise WireError("FAT", "BPB_BytsPerSec", _BPB_AT, f"{sector} bytes a sector: no FAT file system")
        if per_cluster not in (1, 2, 4, 8, 16, 32, 64, 128) or not fats or not reserved:
            raise WireError("FAT", "BPB_SecPerClus", 13, f"{per_cluster} sectors a cluster, {fats} tables")
        self._read = read
        self._cluster_size = sector * per_cluster
        table_sectors = fat16 or fat32
        root_sectors = -(-root_entries * _ENTRY_SIZE // sector)
        first_data = reserved + fats * table_sectors + root_sectors
        self.clusters = max(0, (total16 or total32) - first_data) // per_cluster
        self.bits = 12 if self.clusters < 4085 else 16 if self.clusters < 65525 else 32
        if table_sectors * sector > MAX_TABLE or (self.clusters + 2) * self.bits > 8 * table_sectors * sector:
            raise WireError("FAT", "BPB_FATSz", 22, f"{table_sectors} sectors for {self.clusters} clusters")
        self._data = first_data * sector
        self._table = reserved * sector, table_sectors * sector
        self._fixed_root = ((reserved + fats * table_sectors) * sector, root_entries * _ENTRY_SIZE)
        self._blocks: dict[int, bytes] = {}
        self._root_cluster = struct.unpack_from("<I", boot, 44)[0] if self.bits == 32 else 0

    def listing(self, path: str = "") -> tuple[FatEntry, ...] | None:
        """The entries of a directory, or None if there is no such directory.

        Raises:
            WireError: the file system is damaged.
        """
        entry = self._find(path)
        return None if entry is None or not entry.directory else tuple(self._entries(entry.cluster))

    def file(self, path: str) -> bytes | None:
        """A file's content, or None if there is no such file.

        Raises:
            WireError: the file system is damaged, or the file larger than ``MAX_FILE``.
        """
        entry = self._find(path)
        if entry is None or entry.directory:
            return None
        if entry.size > MAX_FILE:
            raise WireError("FAT", "DIR_FileSize", 0, f"{path}: {entry.size} bytes, more than {MAX_FILE}")
        data = b"".join(self._runs(entry.cluster, entry.size)) if entry.size else b""
        if len(data) < entry.size:
            raise WireError("FAT", "DIR_FileSize", 0, f"{path}: {entry.size} bytes, its chain has {len(data)}")
        return data[: entry.size]

    def _find(self, path: str) -> FatEntry | None:
        parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]
        found = FatEntry("", "", True, self._root_cluster, 0)
        if len(parts) > MAX_DEPTH:
            return None
        for part in parts:
            if not found.directory:
                return None
            wanted = part.casefold()
            names = (one for one in self._entries(found.cluster) if wanted in (one.name.casefold(), one.short_name))
            step = next(names, None)
            if step is None:
                return None
            found = step
        return found

    def _entries(self, cluster: int) -> Iterator[FatEntry]:
        long_parts: list[str] = []
        data = self._directory(cluster)
        for start in range(0, len(data) - _ENTRY_SIZE + 1, _ENTRY_SIZE):
            raw = data[start : start + _ENTRY_SIZE]
            if raw[0] == 0:
                return
            if raw[0] != 0xE5 and raw[11] == _LONG_NAME:
                long_parts.insert(0, (raw[1:11] + raw[14:26] + raw[28:32]).decode("utf-16-le", "replace"))
                continue
            if (
                raw[0] != 0xE5
                and not raw[11] & _VOLUME_LABEL
                and not raw.startswith((b".          ", b"..         "))
            ):
                yield _entry(raw, "".join(long_parts).partition("\0")[0])
            long_parts.clear()

    def _directory(self, cluster: int) -> bytes:
        if cluster == 0:
            if self.bits == 32:
                raise WireError("FAT", "BPB_RootClus", 44, "0 is no cluster")
            start, size = self._fixed_root
            return exactly(self._read, "FAT", "root directory", start, size)
        return b"".join(self._runs(cluster, MAX_DIRECTORY))

    def _runs(self, cluster: int, size: int) -> Iterator[bytes]:
        """The clusters of a chain, neighbours read at once, until ``size`` bytes are there or the chain ends."""
        wanted = -(-size // self._cluster_size)
        while wanted > 0 and cluster < _END[self.bits]:
            first, count = cluster, 0
            while cluster == first + count and count < wanted:
                if not 2 <= cluster < self.clusters + 2:
                    raise WireError("FAT", "table", self._table[0], f"a chain leads to cluster {cluster}")
                cluster, count = self._next(cluster), count + 1
            start = self._data + (first - 2) * self._cluster_size
            yield exactly(self._read, "FAT", "cluster", start, count * self._cluster_size)
            wanted -= count

    def _next(self, cluster: int) -> int:
        if self.bits == 12:
            value = int.from_bytes(self._of_table(cluster * 3 // 2, 2), "little")
            return value >> 4 if cluster & 1 else value & 0xFFF
        size = self.bits // 8
        return int.from_bytes(self._of_table(cluster * size, size), "little") & 0x0FFFFFFF

    def _of_table(self, offset: int, size: int) -> bytes:
        """Bytes of the allocation table, which is read in blocks that are kept."""
        number, inside = divmod(offset, _TABLE_BLOCK)
        if number not in self._blocks:
            start, length = self._table
            count = max(0, min(_TABLE_BLOCK + 4, length - number * _TABLE_BLOCK))
            self._blocks[number] = exactly(self._read, "FAT", "table", start + number * _TABLE_BLOCK, count)
        return self._blocks[number][inside : inside + size]


def _entry(raw: bytes, long_name: str) -> FatEntry:
    base, extension = raw[:8].rstrip(b" "), raw[8:11].rstrip(b" ")
    base = b"\xe5" + base[1:] if base[:1] == b"\x05" else base
    base = base.lower() if raw[12] & _LOWER_BASE else base
    extension = extension.lower() if raw[12] & _LOWER_EXTENSION else extension
    short = (base + (b"." + extension if extension else b"")).decode("cp437")
    high, low, size = struct.unpack_from("<H4xHI", raw, 20)
    return FatEntry(long_name or short, short.casefold(), bool(raw[11] & _DIRECTORY), high << 16 | low, size)

"""qcow2 disk images, read only: versions 2 and 3, with a backing file, without encryption and external data files.

Source: QEMU ``docs/interop/qcow2.rst``.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

from tdxstack.errors import WireError
from tdxstack.wire.block import ReadAt, exactly

MAGIC = b"QFI\xfb"
_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
_FEATURES = struct.Struct(">QQQII")
#: Incompatible features that do not change how data is read: dirty, corrupt.
_HARMLESS = 0b11
_COMPRESSION_TYPE = 1 << 3
_OFFSET = 0x00FF_FFFF_FFFF_FE00
_COMPRESSED = 1 << 62
_ZERO = 1
MAX_L1 = 32 << 20
MAX_BACKING_NAME = 1023


@dataclass(slots=True)
class Qcow2:
    """One image. ``backing_name`` is the backing file as the image names it, or None.

    Args:
        read_file: a reader of the image file.
        backing: a reader of the backing file's content; without one, what is not allocated reads as zeros.

    Raises:
        WireError: no qcow2 image, or one with a feature that is not read here.
    """

    read_file: ReadAt
    backing: ReadAt | None = None
    size: int = field(init=False)
    backing_name: str | None = field(init=False)
    _bits: int = field(init=False)
    _l1: tuple[int, ...] = field(init=False)
    _l2: dict[int, tuple[int, ...]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        raw = exactly(self.read_file, "qcow2", "header", 0, _HEADER.size)
        magic, version, name_at, name_size, bits, size, crypt, l1_size, l1_at, *_ = _HEADER.unpack(raw)
        if magic != MAGIC or version not in (2, 3):
            raise WireError("qcow2", "magic", 0, f"{magic!r}, version {version}")
        if not 9 <= bits <= 21 or l1_size * 8 > MAX_L1 or name_size > MAX_BACKING_NAME:
            raise WireError("qcow2", "cluster_bits", 20, f"{bits} bits, {l1_size} entries")
        if crypt:
            raise WireError("qcow2", "crypt_method", 32, "the image is encrypted")
        if version == 3:
            self._check_features()
        self.size, self._bits = size, bits
        name = exactly(self.read_file, "qcow2", "backing_file", name_at, name_size) if name_at else b""
        self.backing_name = name.decode("utf-8", "surrogateescape") if name else None
        table = exactly(self.read_file, "qcow2", "l1_table", l1_at, l1_size * 8)
        self._l1 = struct.unpack(f">{l1_size}Q", table)

    def _check_features(self) -> None:
        raw = exactly(self.read_file, "qcow2", "incompatible_features", 72, _FEATURES.size + 1)
        features, _, _, _, header_length = _FEATURES.unpack(raw[: _FEATURES.size])
        zlib_used = not features & _COMPRESSION_TYPE or (header_length > 104 and raw[_FEATURES.size] == 0)
        if features & ~(_HARMLESS | _COMPRESSION_TYPE) or not zlib_used:
            raise WireError("qcow2", "incompatible_features", 72, f"0x{features:x} is not read here")

    def read(self, offset: int, length: int) -> bytes:
        """The guest's bytes at ``offset``; fewer than ``length`` at the disk's end.

        Raises:
            WireError: the image is damaged.
        """
        end = min(offset + length, self.size)
        parts: list[bytes] = []
        while offset < end:
            inside = offset & (1 << self._bits) - 1
            count = min(end - offset, (1 << self._bits) - inside)
            parts.append(self._cluster(offset, inside, count))
            offset += count
        return b"".join(parts)

    def _cluster(self, offset: int, inside: int, count: int) -> bytes:
        entry = self._entry(offset >> self._bits)
        if entry & _COMPRESSED:
            return self._inflated(entry)[inside : inside + count]
        host = entry & _OFFSET
        if host and not entry & _ZERO:
            return exactly(self.read_file, "qcow2", "cluster", host + inside, count)
        below = b"" if host or entry & _ZERO or self.backing is None else self.backing(offset, count)
        return below.ljust(count, b"\0")

    def _entry(self, cluster: int) -> int:
        per_table = 1 << (self._bits - 3)
        index, inside = divmod(cluster, per_table)
        if index >= len(self._l1):
            raise WireError("qcow2", "l1_table", 40, f"no entry {index} for cluster {cluster}")
        table = self._l1[index] & _OFFSET
        if not table:
            return 0
        if table not in self._l2:
            raw = exactly(self.read_file, "qcow2", "l2_table", table, per_table * 8)
            self._l2[table] = struct.unpack(f">{per_table}Q", raw)
        return self._l2[table][inside]

    def _inflated(self, entry: int) -> bytes:
        shift = 62 - (self._bits - 8)
        host = entry & (1 << shift) - 1
        sectors = (entry >> shift) & ((1 << (self._bits - 8)) - 1)
        raw = self.read_file(host, (sectors + 1) * 512 - (host & 511))
        size = 1 << self._bits
        try:
            plain = zlib.decompressobj(-12).decompress(raw, size)
        except zlib.error as error:
            raise WireError("qcow2", "compressed cluster", host, str(error)) from None
        if len(plain) != size:
            raise WireError("qcow2", "compressed cluster", host, f"{len(plain)} of {size} bytes")
        return plain

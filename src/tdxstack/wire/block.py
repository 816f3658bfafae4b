"""A disk or partition as something to read from: how the parsers of disk structures get their bytes without I/O."""

from __future__ import annotations

from collections.abc import Callable

from tdxstack.errors import WireError

#: ``read(offset, length)`` gives the bytes at ``offset``; fewer than ``length`` where the disk ends before.
ReadAt = Callable[[int, int], bytes]
SECTOR = 512


def exactly(read: ReadAt, structure: str, field: str, offset: int, length: int) -> bytes:
    """``length`` bytes at ``offset``.

    Raises:
        WireError: the disk ends before.
    """
    data = read(offset, length)
    if len(data) != length:
        raise WireError(structure, field, offset, f"{length} bytes wanted, the disk ends after {len(data)}")
    return data


def part_of(read: ReadAt, start: int, length: int) -> ReadAt:
    """A reader of the range ``[start, start + length)``, for a partition."""

    def inner(offset: int, count: int) -> bytes:
        if not 0 <= offset <= length or count < 0:
            return b""
        return read(start + offset, min(count, length - offset))

    return inner


def reader_of(data: bytes) -> ReadAt:
    """A reader of bytes in memory."""

    def read(offset: int, length: int) -> bytes:
        return data[offset : offset + length] if offset >= 0 and length >= 0 else b""

    return read

"""A TD's memory size out of the digest of its TD HOB, where it is one of a usual size and firmware.

The digest is a function of the memory size and of a few sections of the firmware, which OVMF lays out in three ways:
the size that leads to a digest can be found by trying.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache

from tdxstack.measure.launch import td_hob
from tdxstack.wire.tdvf import Section, SectionType, TdvfMetadata

_MIB = 1 << 20
_TEMPORARY, _HOB = SectionType.TEMP_MEM, SectionType.TD_HOB
#: Sections that count, as (address, size, type) (edk2 ``OvmfPkg/ResetVector/X64/IntelTdxMetadata.asm``).
_COMMON = ((0x80B000, 0x2000, _TEMPORARY), (0x809000, 0x2000, _HOB), (0x800000, 0x6000, _TEMPORARY))
_LAYOUTS = (
    ((0x810000, 0x10000, _TEMPORARY), *_COMMON),  # edk2 202211, and IntelTdx of all releases
    ((0x811000, 0xF000, _TEMPORARY), *_COMMON),  # edk2 202502
    ((0x814000, 0xC000, _TEMPORARY), *_COMMON, (0x820000, 0x10000, _TEMPORARY)),  # edk2 202608
)


def memory_of(digest: bytes) -> int | None:
    """The memory size in bytes whose TD HOB has this SHA-384 digest; None where no usual one has."""
    return _sizes_by_digest().get(digest)


@cache
def _sizes_by_digest() -> dict[bytes, int]:
    found: dict[bytes, int] = {}
    for layout in _LAYOUTS:
        metadata = TdvfMetadata(tuple(Section(0, 0, gpa, size, kind, 0) for gpa, size, kind in layout), 0)
        for size in _usual_sizes():
            found[hashlib.sha384(td_hob(metadata, size).measured()).digest()] = size
    return found


def _usual_sizes() -> Iterator[int]:
    """Whole GiB up to 1 TiB, whole 128 MiB up to 16 GiB, powers of two above."""
    yield from range(1024 * _MIB, (1 << 40) + 1, 1024 * _MIB)
    yield from range(256 * _MIB, 16 << 30, 128 * _MIB)
    yield from (1 << bits for bits in range(41, 45))

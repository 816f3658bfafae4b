"""Hand-off blocks (HOBs): the TD HOB list by which QEMU tells TDVF the TD's memory.

Source: UEFI Platform Initialization 1.8, volume 3, sections 4 and 5; Intel TDX Virtual Firmware Design Guide,
section 4.2 (TD HOB); QEMU ``hw/i386/tdvf-hob.c`` for the list that QEMU writes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from tdxstack.errors import WireError

_HEADER = struct.Struct("<HHI")
_PHIT = struct.Struct("<HHIIIQQQQQ")
_RESOURCE = struct.Struct("<HHI16sIIQQ")
END_SIZE = _HEADER.size
MAX_HOBS = 4096


class HobType(IntEnum):
    """EFI_HOB_TYPE_*."""

    HANDOFF = 0x0001
    RESOURCE_DESCRIPTOR = 0x0003
    GUID_EXTENSION = 0x0004
    END_OF_HOB_LIST = 0xFFFF


class ResourceType(IntEnum):
    """EFI_RESOURCE_*: memory the TD has accepted, and memory it must accept."""

    SYSTEM_MEMORY = 0
    MEMORY_UNACCEPTED = 7


#: EFI_RESOURCE_ATTRIBUTE_PRESENT | INITIALIZED | TESTED, what QEMU sets.
TDVF_ATTRIBUTES = 7


@dataclass(frozen=True, slots=True)
class ResourceHob:
    """EFI_HOB_RESOURCE_DESCRIPTOR: ``length`` bytes from physical address ``start``."""

    resource_type: int
    start: int
    length: int
    attributes: int = TDVF_ATTRIBUTES
    owner: bytes = bytes(16)

    def to_bytes(self) -> bytes:
        return _RESOURCE.pack(
            HobType.RESOURCE_DESCRIPTOR,
            _RESOURCE.size,
            0,
            self.owner,
            self.resource_type,
            self.attributes,
            self.start,
            self.length,
        )


@dataclass(frozen=True, slots=True)
class TdHob:
    """A TD HOB list at guest physical address ``base``: the PHIT HOB, resources, and the end HOB."""

    base: int
    resources: tuple[ResourceHob, ...]

    def to_bytes(self) -> bytes:
        """The whole list, the end HOB included."""
        end = _HEADER.pack(HobType.END_OF_HOB_LIST, END_SIZE, 0)
        return self.measured() + end

    def measured(self) -> bytes:
        """What TDVF measures: the list up to, and without, the end HOB."""
        total = _PHIT.size + len(self.resources) * _RESOURCE.size + END_SIZE
        phit = _PHIT.pack(HobType.HANDOFF, _PHIT.size, 0, 9, 0, 0, 0, 0, 0, self.base + total)
        return phit + b"".join(resource.to_bytes() for resource in self.resources)

    @classmethod
    def from_bytes(cls, data: bytes) -> TdHob:
        """Read a list that consists of a PHIT HOB and resource descriptors.

        Raises:
            WireError: damaged, or it has HOBs of other types.
        """
        if len(data) < _PHIT.size:
            raise WireError("TD HOB", "PHIT", 0, f"{len(data)} bytes")
        kind, size, *_, end = _PHIT.unpack_from(data)
        if kind != HobType.HANDOFF or size != _PHIT.size:
            raise WireError("TD HOB", "PHIT", 0, f"type {kind}, length {size}")
        resources: list[ResourceHob] = []
        position = _PHIT.size
        while len(resources) < MAX_HOBS:
            if position + END_SIZE > len(data):
                raise WireError("TD HOB", "HobLength", position, "no end HOB")
            kind, size, _ = _HEADER.unpack_from(data, position)
            if kind == HobType.END_OF_HOB_LIST:
                total = position + END_SIZE
                if end < total:
                    raise WireError("TD HOB", "EfiEndOfHobList", 48, f"0x{end:x} is before the list's end")
                return cls(end - total, tuple(resources))
            if kind != HobType.RESOURCE_DESCRIPTOR or size != _RESOURCE.size or position + size > len(data):
                raise WireError("TD HOB", "HobType", position, f"type {kind}, length {size}")
            _, _, _, owner, resource, attributes, start, length = _RESOURCE.unpack_from(data, position)
            resources.append(ResourceHob(resource, start, length, attributes, owner))
            position += size
        raise WireError("TD HOB", "HobLength", position, f"more than {MAX_HOBS} HOBs")


def split_ranges(
    ram: Iterable[tuple[int, int]], accepted: Iterable[tuple[int, int]]
) -> tuple[tuple[ResourceType, int, int], ...]:
    """Cut RAM ranges (start, end) by accepted ones; all parts in ascending order as (type, start, length).

    Raises:
        WireError: an accepted range is not inside one RAM range.
    """
    parts: list[tuple[ResourceType, int, int]] = []
    wanted = sorted(accepted)
    for start, end in sorted(ram):
        position = start
        while wanted and wanted[0][0] < end:
            low, high = wanted.pop(0)
            if low < position or high > end:
                raise WireError("TD HOB", "range", 0, f"0x{low:x}..0x{high:x} is not inside RAM")
            if low > position:
                parts.append((ResourceType.MEMORY_UNACCEPTED, position, low - position))
            parts.append((ResourceType.SYSTEM_MEMORY, low, high - low))
            position = high
        if position < end:
            parts.append((ResourceType.MEMORY_UNACCEPTED, position, end - position))
    if wanted:
        raise WireError("TD HOB", "range", 0, f"0x{wanted[0][0]:x} is not in RAM")
    return tuple(parts)

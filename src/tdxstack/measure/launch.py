"""What TDVF measures of the TD's launch before anything else: the TD HOB and the configuration volume.

Source: edk2 ``OvmfPkg/IntelTdx/TdxHelperLib`` (``TdxHelperMeasureTdHob``, ``TdxHelperMeasureCfvImage``), which
extends RTMR0 in SEC and logs both events later; QEMU ``hw/i386/tdvf-hob.c`` and
``hw/i386/pc_q35.c`` for the memory map.
"""

from __future__ import annotations

import hashlib
import struct

from tdxstack.wire.hob import ResourceHob, TdHob, split_ranges
from tdxstack.wire.tcg import Algorithm, Digest, Event, EventType
from tdxstack.wire.tdvf import SectionType, TdvfMetadata

RTMR0_INDEX = 1
_FOUR_GIB = 1 << 32
_TDX_TABLE_GUID = bytes.fromhex("af96bb93f2b9b84e9462e0ba74564236")
_TDX_TABLE_NAME = b"TdxTable\0"
_CFV_NAME = b"Fv(XXXXXXXX-XXXX-XXXX-XXXX-XXXXXXXXXXXX)\0"
_HANDOFF = struct.Struct("<QQ")


def ram_ranges(memory_bytes: int) -> tuple[tuple[int, int], ...]:
    """RAM of a q35 machine as (start, end): below 2.75 GiB, or below 2 GiB and from 4 GiB on."""
    below = 0x80000000 if memory_bytes >= 0xB0000000 else 0xB0000000
    low = min(memory_bytes, below)
    high = memory_bytes - low
    return ((0, low),) + (((_FOUR_GIB, _FOUR_GIB + high),) if high else ())


def td_hob(metadata: TdvfMetadata, memory_bytes: int) -> TdHob:
    """The TD HOB list that QEMU writes: a function of the firmware's sections and of the memory size alone.

    Args:
        metadata: of the firmware that boots.
        memory_bytes: the TD's RAM.

    Raises:
        WireError: the firmware's sections do not fit into this memory.
    """
    kinds = (SectionType.TD_HOB, SectionType.TEMP_MEM)
    accepted = [(s.gpa, s.gpa + s.memory_size) for s in metadata.sections if s.type in kinds]
    parts = split_ranges(ram_ranges(memory_bytes), accepted)
    base = metadata.of_type(SectionType.TD_HOB)[0].gpa
    return TdHob(base, tuple(ResourceHob(kind, start, length) for kind, start, length in parts))


def td_hob_event(metadata: TdvfMetadata, memory_bytes: int) -> Event:
    """EV_EFI_HANDOFF_TABLES2 of the TD HOB, SHA-384 only."""
    hob = td_hob(metadata, memory_bytes)
    data = bytes([len(_TDX_TABLE_NAME)]) + _TDX_TABLE_NAME
    data += struct.pack("<Q", 1) + _TDX_TABLE_GUID + struct.pack("<Q", hob.base)
    return _event(EventType.EV_EFI_HANDOFF_TABLES2, hob.measured(), data)


def cfv_event(firmware: bytes, metadata: TdvfMetadata) -> Event | None:
    """EV_EFI_PLATFORM_FIRMWARE_BLOB2 of the configuration volume, SHA-384 only; None without one."""
    for section in metadata.of_type(SectionType.CFV):
        content = section.content(firmware).ljust(section.memory_size, b"\0")
        data = bytes([len(_CFV_NAME)]) + _CFV_NAME + _HANDOFF.pack(section.gpa, section.memory_size)
        return _event(EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB2, content, data)
    return None


def launch_events(firmware: bytes, memory_bytes: int) -> tuple[Event, ...]:
    """The events that RTMR0 starts with in a TD: TD HOB, then CFV.

    Raises:
        WireError: the file has no valid TDVF metadata.
    """
    metadata = TdvfMetadata.from_bytes(firmware)
    cfv = cfv_event(firmware, metadata)
    return (td_hob_event(metadata, memory_bytes), *((cfv,) if cfv else ()))


def _event(kind: EventType, measured: bytes, data: bytes) -> Event:
    digest = Digest(Algorithm.SHA384, hashlib.sha384(measured).digest())
    return Event(RTMR0_INDEX, kind, (digest,), data)

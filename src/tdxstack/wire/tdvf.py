"""TDVF metadata: what a firmware file asks the VMM to load, and what of it is measured into MRTD.

Source: Intel TDX Virtual Firmware Design Guide, section 11; edk2 ``OvmfPkg/ResetVector/X64/IntelTdxMetadata.asm``.
OVMF points to the metadata from a table of GUIDed entries that ends 48 bytes before the end of the file and is read
backwards; td-shim stores the metadata's offset 32 bytes before the end.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from uuid import UUID

from tdxstack.errors import WireError

TABLE_FOOTER_GUID = UUID("96b582de-1fb2-45f7-baea-a366c55a082d")
METADATA_OFFSET_GUID = UUID("e47a6535-984a-4798-865e-4685a7bf8ec2")
METADATA_GUID = UUID("e9eaf9f3-168e-44d5-a8eb-7f4d8738f6ae")
#: FFS file GUID of TdTcg2Dxe, the driver that measures a TD's boot into the RTMRs.
TD_TCG2_DXE_GUID = UUID("f062221e-c607-44c2-b0b4-c3886331d351")

PAGE = 4096
#: Limits. Real firmware has 4 to 8 sections; files are 2 to 16 MiB.
MAX_SECTIONS = 64
MAX_FIRMWARE = 256 << 20
MAX_MEMORY = 1 << 32
MAX_MEASURED = 1 << 27

_FOOTER_FROM_END = 48
_ENTRY_TAIL = 18
_SIGNATURE = b"TDVF"
_DESCRIPTOR = struct.Struct("<4sIII")
_SECTION = struct.Struct("<IIQQII")


class SectionType(IntEnum):
    """What a section holds."""

    BFV = 0
    CFV = 1
    TD_HOB = 2
    TEMP_MEM = 3
    PERM_MEM = 4
    PAYLOAD = 5
    PAYLOAD_PARAM = 6
    TD_INFO = 7
    TD_PARAMS = 8


class SectionAttribute(IntFlag):
    """How a section is added: measured by TDH.MR.EXTEND; not added but accepted later."""

    NONE = 0
    MR_EXTEND = 1
    PAGE_AUG = 2


@dataclass(frozen=True, slots=True)
class Section:
    """``raw_size`` bytes of the file at ``data_offset``, loaded at ``gpa``, zero-filled to ``memory_size``."""

    data_offset: int
    raw_size: int
    gpa: int
    memory_size: int
    type: int
    attributes: int

    @property
    def name(self) -> str:
        try:
            return SectionType(self.type).name
        except ValueError:
            return f"type {self.type}"

    @property
    def measured(self) -> bool:
        """Whether its content goes into MRTD."""
        return bool(self.attributes & SectionAttribute.MR_EXTEND)

    def content(self, firmware: bytes) -> bytes:
        """Its bytes in the file, without the zero fill."""
        return firmware[self.data_offset : self.data_offset + self.raw_size]


@dataclass(frozen=True, slots=True)
class TdvfMetadata:
    """The metadata of one firmware file. ``offset`` is where the descriptor is, in bytes from the file's start."""

    sections: tuple[Section, ...]
    offset: int
    version: int = 1

    @classmethod
    def from_bytes(cls, firmware: bytes) -> TdvfMetadata:
        """Find the metadata in a firmware file, read it and check it whole.

        Raises:
            WireError: no metadata, or metadata that cannot be right for this file.
        """
        if len(firmware) > MAX_FIRMWARE:
            raise WireError("TDVF", "file", 0, f"{len(firmware)} bytes, more than {MAX_FIRMWARE}")
        offset = _find(firmware)
        _, length, version, count = _DESCRIPTOR.unpack_from(firmware, offset)
        if version != 1:
            raise WireError("TDVF_DESCRIPTOR", "Version", offset + 8, f"{version}, not 1")
        if not 1 <= count <= MAX_SECTIONS:
            raise WireError("TDVF_DESCRIPTOR", "NumberOfSectionEntry", offset + 12, f"{count}, not 1..{MAX_SECTIONS}")
        if length != _DESCRIPTOR.size + count * _SECTION.size:
            raise WireError("TDVF_DESCRIPTOR", "Length", offset + 4, f"{length} for {count} sections")
        if offset + length > len(firmware):
            raise WireError("TDVF_DESCRIPTOR", "Length", offset + 4, "reaches past the end of the file")
        first = offset + _DESCRIPTOR.size
        sections = tuple(Section(*_SECTION.unpack_from(firmware, first + n * _SECTION.size)) for n in range(count))
        for number, section in enumerate(sections):
            _check_section(section, first + number * _SECTION.size, len(firmware))
        _check_whole(sections, first)
        return cls(sections, offset, version)

    def to_bytes(self) -> bytes:
        """Descriptor and sections, without the GUID in front of it."""
        length = _DESCRIPTOR.size + len(self.sections) * _SECTION.size
        return _DESCRIPTOR.pack(_SIGNATURE, length, self.version, len(self.sections)) + b"".join(
            _SECTION.pack(s.data_offset, s.raw_size, s.gpa, s.memory_size, s.type, s.attributes)
            for s in self.sections
        )

    def of_type(self, kind: SectionType) -> tuple[Section, ...]:
        """The sections of one type, in the file's order."""
        return tuple(section for section in self.sections if section.type == kind)


def _find(firmware: bytes) -> int:
    """Offset of the descriptor, by OVMF's table or td-shim's pointer."""
    from_end = table_entry(firmware, METADATA_OFFSET_GUID)
    size = len(firmware)
    if from_end is not None:
        if len(from_end) < 4:
            raise WireError("OVMF table", "metadata offset", size, f"{len(from_end)} bytes, 4 needed")
        offset = size - int.from_bytes(from_end[-4:], "little")
    elif size >= 32:
        offset = int.from_bytes(firmware[size - 32 : size - 28], "little")
    else:
        offset = -1
    if not 0 <= offset <= size - _DESCRIPTOR.size or firmware[offset : offset + 4] != _SIGNATURE:
        raise WireError("TDVF", "descriptor", max(0, min(offset, size)), "no TDVF metadata: not a firmware for TDs")
    return offset


def table_entry(firmware: bytes, wanted: UUID) -> bytes | None:
    """Data of one entry of OVMF's table of GUIDed entries; None if there is no table or no such entry.

    Raises:
        WireError: the table is damaged.
    """
    footer = len(firmware) - _FOOTER_FROM_END
    if footer < 2 or firmware[footer : footer + 16] != TABLE_FOOTER_GUID.bytes_le:
        return None
    total = int.from_bytes(firmware[footer - 2 : footer], "little")
    start = footer + 16 - total
    if total < _ENTRY_TAIL or start < 0:
        raise WireError("OVMF table", "length", footer - 2, f"{total} bytes")
    position = footer - 2
    while position - _ENTRY_TAIL >= start:
        guid = firmware[position - 16 : position]
        length = int.from_bytes(firmware[position - _ENTRY_TAIL : position - 16], "little")
        if length < _ENTRY_TAIL or position - length < start:
            raise WireError("OVMF table", "entry length", position - _ENTRY_TAIL, f"{length} bytes")
        if guid == wanted.bytes_le:
            return firmware[position - length : position - _ENTRY_TAIL]
        position -= length
    return None


def _check_section(section: Section, at: int, file_size: int) -> None:
    def refuse(field: str, delta: int, reason: str) -> WireError:
        return WireError("TDVF_SECTION", field, at + delta, f"{section.name}: {reason}")

    if section.data_offset + section.raw_size > file_size:
        reason = (
            f"0x{section.data_offset:x}+0x{section.raw_size:x} is past the end of the file (0x{file_size:x}); "
            "a split OVMF_CODE file has the whole firmware's offsets: use the single-file OVMF.fd"
        )
        raise refuse("DataOffset", 0, reason)
    if section.gpa % PAGE or section.memory_size % PAGE:
        raise refuse("MemoryAddress", 8, f"0x{section.gpa:x}+0x{section.memory_size:x} is not page aligned")
    if section.memory_size > MAX_MEMORY or section.gpa + section.memory_size > 1 << 52:
        raise refuse("MemoryDataSize", 16, f"0x{section.gpa:x}+0x{section.memory_size:x} is out of range")
    if section.memory_size < section.raw_size:
        raise refuse("MemoryDataSize", 16, f"0x{section.memory_size:x} is less than the data, 0x{section.raw_size:x}")
    if section.type in (SectionType.TD_HOB, SectionType.TEMP_MEM, SectionType.PERM_MEM) and section.raw_size:
        raise refuse("RawDataSize", 4, "memory without content has data in the file")
    if section.type in (SectionType.BFV, SectionType.CFV) and not section.raw_size:
        raise refuse("RawDataSize", 4, "a firmware volume without data")


def _check_whole(sections: tuple[Section, ...], at: int) -> None:
    kinds = [section.type for section in sections]
    if kinds.count(SectionType.TD_HOB) != 1:
        raise WireError("TDVF", "TD_HOB", at, f"{kinds.count(SectionType.TD_HOB)} sections, exactly 1 needed")
    if SectionType.BFV not in kinds:
        raise WireError("TDVF", "BFV", at, "no boot firmware volume")
    for limit, counted in ((MAX_MEMORY, sections), (MAX_MEASURED, [one for one in sections if one.measured])):
        total = sum(section.memory_size for section in counted)
        if total > limit:
            raise WireError("TDVF", "MemoryDataSize", at, f"sections of 0x{total:x} bytes, more than 0x{limit:x}")
    end, before = 0, ""
    for section in sorted(sections, key=lambda item: item.gpa):
        if section.gpa < end:
            raise WireError("TDVF", "MemoryAddress", at, f"{before} and {section.name} overlap at 0x{section.gpa:x}")
        if section.memory_size:
            end, before = section.gpa + section.memory_size, section.name

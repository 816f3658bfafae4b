"""SMBIOS structures: what the firmware says of the memory, the board and itself (DMTF DSP0134).

Only the structures that a host check needs are read as values; all others are walked over. A table is cut where the
first malformed structure stands, with a ``WireError``: nothing is guessed beyond it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from tdxstack.errors import WireError

#: Bounds against hostile tables; real ones have some hundred structures in some tens of KiB.
MAX_TABLE = 4 << 20
MAX_STRUCTURES = 16384
HEADER = struct.Struct("<BBH")


class StructureType(IntEnum):
    """Structure types used here (DSP0134 section 7)."""

    FIRMWARE = 0
    SYSTEM = 1
    BASEBOARD = 2
    CHASSIS = 3
    PROCESSOR = 4
    MEMORY_DEVICE = 17
    END_OF_TABLE = 127


class MemoryType(IntEnum):
    """Memory Device: Type (DSP0134 7.18.2), those a server may have."""

    OTHER = 0x01
    UNKNOWN = 0x02
    DDR4 = 0x1A
    LPDDR4 = 0x1E
    LOGICAL_NON_VOLATILE = 0x1F
    HBM2 = 0x21
    DDR5 = 0x22
    LPDDR5 = 0x23


class MemoryTechnology(IntEnum):
    """Memory Device: Memory Technology (DSP0134 7.18.6)."""

    OTHER = 0x01
    UNKNOWN = 0x02
    DRAM = 0x03
    NVDIMM_N = 0x04
    NVDIMM_F = 0x05
    NVDIMM_P = 0x06
    PERSISTENT = 0x07


@dataclass(frozen=True, slots=True)
class Structure:
    """One structure: ``formatted`` is its formatted area from the header on, ``strings`` its string set."""

    type: int
    handle: int
    formatted: bytes
    strings: tuple[str, ...]
    offset: int

    def byte(self, at: int) -> int | None:
        """The byte at ``at`` in the formatted area, or None where this version of the structure ends before it."""
        return self.formatted[at] if at < len(self.formatted) else None

    def word(self, at: int) -> int | None:
        return int.from_bytes(self.formatted[at : at + 2], "little") if at + 2 <= len(self.formatted) else None

    def dword(self, at: int) -> int | None:
        return int.from_bytes(self.formatted[at : at + 4], "little") if at + 4 <= len(self.formatted) else None

    def string(self, at: int) -> str:
        """The string whose number stands at ``at``; empty where there is none."""
        number = self.byte(at)
        return self.strings[number - 1] if number and number <= len(self.strings) else ""


@dataclass(frozen=True, slots=True)
class MemoryDevice:
    """One DIMM slot (type 17). ``size_mib`` is 0 for an empty slot, None where the firmware does not know."""

    locator: str
    bank: str
    size_mib: int | None
    total_width: int | None
    data_width: int | None
    type: int
    registered: bool
    technology: int | None
    manufacturer: str
    part_number: str

    @property
    def populated(self) -> bool:
        return self.size_mib != 0

    @property
    def ecc_bits(self) -> int | None:
        """Bits beyond the data bits: 16 for a 10x4 DDR5 RDIMM (80 bits wide), 8 for 9x4, 0 without ECC."""
        if not self.total_width or not self.data_width or 0xFFFF in (self.total_width, self.data_width):
            return None
        return self.total_width - self.data_width

    @classmethod
    def from_structure(cls, structure: Structure) -> MemoryDevice:
        return cls(
            locator=structure.string(0x10),
            bank=structure.string(0x11),
            size_mib=_size_mib(structure),
            total_width=structure.word(0x08),
            data_width=structure.word(0x0A),
            type=structure.byte(0x12) or MemoryType.UNKNOWN,
            registered=bool((structure.word(0x13) or 0) & 1 << 13),
            technology=structure.byte(0x28),
            manufacturer=structure.string(0x17),
            part_number=structure.string(0x1A).strip(),
        )


def _size_mib(structure: Structure) -> int | None:
    size = structure.word(0x0C)
    if size is None or size == 0xFFFF:
        return None
    if size == 0x7FFF:
        extended = structure.dword(0x1C)
        return None if extended is None else extended & 0x7FFFFFFF
    return (size & 0x7FFF) >> 10 if size & 0x8000 else size


@dataclass(frozen=True, slots=True)
class Firmware:
    """Firmware (BIOS) information (type 0)."""

    vendor: str
    version: str
    date: str


@dataclass(frozen=True, slots=True)
class System:
    """System information (type 1), without what identifies one machine."""

    manufacturer: str
    product: str


@dataclass(frozen=True, slots=True)
class SmbiosTable:
    """The structures of a table in their order (``/sys/firmware/dmi/tables/DMI``)."""

    structures: tuple[Structure, ...]

    @classmethod
    def from_bytes(cls, data: bytes) -> SmbiosTable:
        """Read a table.

        Raises:
            WireError: a structure that is shorter than its header, or strings that do not end.
        """
        return cls(tuple(walk(data)))

    def of(self, kind: StructureType) -> tuple[Structure, ...]:
        return tuple(structure for structure in self.structures if structure.type == kind)

    @property
    def memory_devices(self) -> tuple[MemoryDevice, ...]:
        return tuple(MemoryDevice.from_structure(one) for one in self.of(StructureType.MEMORY_DEVICE))

    @property
    def firmware(self) -> Firmware | None:
        for one in self.of(StructureType.FIRMWARE):
            return Firmware(one.string(4), one.string(5), one.string(8))
        return None

    @property
    def system(self) -> System | None:
        for one in self.of(StructureType.SYSTEM):
            return System(one.string(4), one.string(5))
        return None


def walk(data: bytes) -> Iterator[Structure]:
    """Yield the structures of a table up to its end-of-table structure or the end of the data."""
    if len(data) > MAX_TABLE:
        raise WireError("SMBIOS", "table", 0, f"{len(data)} bytes, at most {MAX_TABLE}")
    offset = 0
    for _ in range(MAX_STRUCTURES):
        if len(data) - offset < HEADER.size:
            return
        kind, length, handle = HEADER.unpack_from(data, offset)
        if length < HEADER.size or offset + length > len(data):
            raise WireError("SMBIOS", "length", offset + 1, f"{length} in a table of {len(data)} bytes")
        end = data.find(b"\0\0", offset + length)
        if end < 0:
            raise WireError("SMBIOS", "strings", offset + length, "no end of the string set")
        raw = data[offset + length : end]
        strings = tuple(part.decode("latin-1") for part in raw.split(b"\0")) if raw else ()
        yield Structure(kind, handle, data[offset : offset + length], strings, offset)
        if kind == StructureType.END_OF_TABLE:
            return
        offset = end + 2
    raise WireError("SMBIOS", "structures", offset, f"more than {MAX_STRUCTURES}")


#: Where structures name one machine: type -> offsets of string numbers (serial numbers, asset tags).
IDENTIFYING_STRINGS = {
    StructureType.SYSTEM: (0x07,),
    StructureType.BASEBOARD: (0x07, 0x08),
    StructureType.CHASSIS: (0x07, 0x08),
    StructureType.PROCESSOR: (0x20, 0x21),
    StructureType.MEMORY_DEVICE: (0x18, 0x19),
}


def redact(data: bytes) -> bytes:
    """The table with serial numbers, asset tags and the system's UUID blanked; same length and offsets.

    Raises:
        WireError: the table cannot be walked, so nothing is sure to be blanked.
    """
    out = bytearray(data)
    for structure in walk(data):
        _blank_strings(out, structure)
        if structure.type == StructureType.SYSTEM:
            start, stop = structure.offset + 8, structure.offset + min(24, len(structure.formatted))
            out[start:stop] = bytes(max(stop - start, 0))
    return bytes(out)


def _blank_strings(out: bytearray, structure: Structure) -> None:
    for kind, fields in IDENTIFYING_STRINGS.items():
        if structure.type != kind:
            continue
        wanted = {structure.byte(field) for field in fields} - {None, 0}
        at = structure.offset + len(structure.formatted)
        for number, text in enumerate(structure.strings, start=1):
            if number in wanted:
                out[at : at + len(text)] = b"x" * len(text)
            at += len(text) + 1


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a DIMM slot is: socket, memory channel and position on the channel, all from 0."""

    socket: int
    channel: int
    position: int


_BANK = re.compile(r"(?:node|cpu|p|proc)[ _]*(\d+).*?channel[ _]*([0-9A-P]+)(?:[ _]*(?:dimm|slot)[ _]*(\d+))?", re.I)
_LOCATOR = re.compile(r"(?:cpu|proc|p|node)[ _-]*(\d+)[ _-]*(?:dimm|mem|ch|channel|c)?[ _-]*([A-P])[ _-]*(\d+)", re.I)
_DELL = re.compile(r"^(?:DIMM[ _.]?(?:Slot)?[ _.]?)?([A-H])(\d{1,2})$", re.I)
_ONE_SOCKET = re.compile(r"^DIMM[ _-]?(?:CH)?[ _-]?([A-P])[ _-]?(\d)$", re.I)


def slot_of(device: MemoryDevice) -> Slot | None:
    """Where the slot is, from its locator strings, or None where their form is not known.

    There is no standard for these strings; read are the forms of Intel's, Supermicro's, ASUS's and Lenovo's boards
    (``CPU0_DIMM_A1``, ``P1-DIMMA1``, ``NODE 0 CHANNEL 0 DIMM 0``) and Dell's (``A1``..``A16``).
    """
    if found := _BANK.search(device.bank):
        letter = found[2].upper()
        channel = int(letter) if letter.isdigit() else ord(letter[0]) - ord("A")
        position = int(found[3]) if found[3] else _position(device.locator)
        return Slot(int(found[1]), channel, position)
    if found := _LOCATOR.search(device.locator):
        return Slot(int(found[1]), ord(found[2].upper()) - ord("A"), max(int(found[3]) - 1, 0))
    if found := _ONE_SOCKET.match(device.locator):
        return Slot(0, ord(found[1].upper()) - ord("A"), max(int(found[2]) - 1, 0))
    if found := _DELL.match(device.locator):
        number = int(found[2]) - 1
        return Slot(ord(found[1].upper()) - ord("A"), number % 8, max(number, 0) // 8)
    return None


def _position(locator: str) -> int:
    found = re.search(r"(\d+)$", locator)
    return max(int(found[1]) - 1, 0) if found else 0

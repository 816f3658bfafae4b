"""SMBIOS structures, and the form of them that firmware measures.

Source: DMTF DSP0134 (SMBIOS 3.x), section 6; edk2 ``SmbiosMeasurementDxe`` for the fields that are blanked before the
tables are measured (serial numbers, identities, counts), since they differ from machine to machine.
"""

from __future__ import annotations

from dataclasses import dataclass

from tdxstack.errors import WireError

HEADER_SIZE = 4
END_OF_TABLE = 127
OEM_BEGIN = 128
MAX_STRUCTURES = 4096
_STRING = True
_FIELD = False

#: type -> (offset, size, is a string number) of the fields that are blanked; () means all behind the header.
_VOLATILE: dict[int, tuple[tuple[int, int, bool], ...]] = {
    1: ((0x07, 1, _STRING), (0x08, 16, _FIELD), (0x18, 1, _FIELD)),
    2: ((0x07, 1, _STRING), (0x0A, 1, _STRING)),
    3: ((0x07, 1, _STRING), (0x08, 1, _STRING)),
    4: (
        (0x20, 1, _STRING),
        (0x21, 1, _STRING),
        (0x22, 1, _STRING),
        (0x23, 1, _FIELD),
        (0x24, 1, _FIELD),
        (0x25, 1, _FIELD),
        (0x2A, 2, _FIELD),
        (0x2C, 2, _FIELD),
        (0x2E, 2, _FIELD),
        (0x11, 1, _FIELD),
        (0x16, 2, _FIELD),
    ),
    11: (),
    15: (),
    17: ((0x18, 1, _STRING), (0x19, 1, _STRING), (0x1A, 1, _STRING)),
    18: (),
    22: ((0x07, 1, _STRING), (0x10, 2, _FIELD), (0x12, 2, _FIELD)),
    23: ((0x05, 2, _FIELD),),
    27: ((0x0C, 2, _FIELD),),
    31: (),
    33: (),
    39: ((0x08, 1, _STRING), (0x09, 1, _STRING), (0x0A, 1, _STRING)),
}


@dataclass(frozen=True, slots=True)
class Structure:
    """One structure: ``formatted`` with its 4-byte header, and its strings without terminators."""

    formatted: bytes
    strings: tuple[bytes, ...]

    @property
    def type(self) -> int:
        return self.formatted[0]

    @property
    def handle(self) -> int:
        return int.from_bytes(self.formatted[2:4], "little")

    def to_bytes(self) -> bytes:
        return self.formatted + (b"".join(text + b"\0" for text in self.strings) or b"\0") + b"\0"

    def measured(self) -> bytes:
        """The structure with its volatile fields blanked: numbers become zero, the strings they name blanks."""
        fields = () if self.type >= OEM_BEGIN else _VOLATILE.get(self.type)
        if fields is None:
            return self.to_bytes()
        if not fields:
            return self.formatted[:HEADER_SIZE] + bytes(len(self.to_bytes()) - HEADER_SIZE)
        formatted, strings = bytearray(self.formatted), list(self.strings)
        for offset, size, is_string in fields:
            if offset + size > len(formatted):
                continue
            if is_string and 0 < (number := formatted[offset]) <= len(strings):
                strings[number - 1] = b" " * len(strings[number - 1])
            formatted[offset : offset + size] = bytes(size)
        return Structure(bytes(formatted), tuple(strings)).to_bytes()


def structures(data: bytes) -> tuple[Structure, ...]:
    """Read a structure table up to its end, or up to and including type 127.

    Raises:
        WireError: a structure or a string set is cut short.
    """
    found: list[Structure] = []
    position = 0
    while position < len(data):
        if len(found) >= MAX_STRUCTURES:
            raise WireError("SMBIOS", "table", position, f"more than {MAX_STRUCTURES} structures")
        length = data[position + 1] if position + 1 < len(data) else 0
        if length < HEADER_SIZE or position + length + 2 > len(data):
            raise WireError("SMBIOS", "Length", position + 1, f"{length} of {len(data) - position} bytes left")
        start = position + length
        end = data.find(b"\0\0", start)
        if end < 0:
            raise WireError("SMBIOS", "strings", start, "no end")
        strings = tuple(data[start:end].split(b"\0")) if end > start else ()
        found.append(Structure(data[position:start], strings))
        position = end + 2
        if found[-1].type == END_OF_TABLE:
            break
    return tuple(found)

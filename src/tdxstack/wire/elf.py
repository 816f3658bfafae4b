"""ELF files of 64 bits, little-endian, as far as a kernel needs: segments, sections, and a symbol table put into one.

Source: System V ABI, chapter 4 (ELF header, section header, symbol table) and chapter 5 (program header).
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tdxstack.errors import WireError

MAGIC = b"\x7fELF\x02\x01\x01"
PT_LOAD = 1
PF_X = 1
SHT_SYMTAB, SHT_STRTAB, SHT_NOBITS = 2, 3, 8
SHF_ALLOC = 2
SHN_ABS = 0xFFF1
MAX_SECTIONS = 4096
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_STT_OBJECT, _STT_FUNC, _STB_GLOBAL = 1, 2, 1


@dataclass(frozen=True, slots=True)
class Segment:
    """A program header. Addresses are virtual and physical, ``offset`` and sizes are bytes in file and memory."""

    type: int
    flags: int
    offset: int
    vaddr: int
    paddr: int
    file_size: int
    memory_size: int


@dataclass(frozen=True, slots=True)
class Section:
    """A section header."""

    name: str
    type: int
    flags: int
    addr: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Symbol:
    """A name and its address. ``kind`` is nm's letter: ``T`` a global function, ``t`` a local one, ``D`` data ..."""

    name: str
    kind: str
    address: int


@dataclass(frozen=True, slots=True)
class Elf:
    """The headers of an ELF file."""

    entry: int
    segments: tuple[Segment, ...]
    sections: tuple[Section, ...]

    @classmethod
    def from_bytes(cls, data: bytes) -> Elf:
        """The headers of ``data``.

        Raises:
            WireError: not such a file, or headers outside it.
        """
        fields = _fields(data)
        segments = (
            _SEGMENT.unpack_from(data, at) for at in _offsets(data, "e_phoff", fields[5], fields[9], fields[10])
        )
        raw = [_SECTION.unpack_from(data, at) for at in _offsets(data, "e_shoff", fields[6], fields[11], fields[12])]
        names = _names(data, raw, fields[13])
        return cls(
            entry=fields[4],
            segments=tuple(Segment(one[0], one[1], one[2], one[3], one[4], one[5], one[6]) for one in segments),
            sections=tuple(
                Section(name, one[1], one[2], one[3], one[4], one[5]) for name, one in zip(names, raw, strict=True)
            ),
        )

    def section(self, name: str) -> Section | None:
        """The section of that name."""
        return next((one for one in self.sections if one.name == name), None)


def _fields(data: bytes) -> tuple[int, ...]:
    if len(data) < _HEADER.size or data[: len(MAGIC)] != MAGIC:
        raise WireError("ELF header", "e_ident", 0, "not a little-endian ELF file of 64 bits")
    fields: tuple[int, ...] = _HEADER.unpack_from(data)
    return fields


def _offsets(data: bytes, field: str, start: int, size: int, count: int) -> Iterable[int]:
    least = _SEGMENT.size if field == "e_phoff" else _SECTION.size
    if count and (size < least or count > MAX_SECTIONS or start + size * count > len(data)):
        raise WireError("ELF header", field, start, f"{count} headers of {size} bytes do not fit")
    return range(start, start + size * count, size) if count else ()


def _names(data: bytes, sections: Sequence[tuple[int, ...]], index: int) -> list[str]:
    if index >= len(sections):
        return ["" for _ in sections]
    start, size = sections[index][4], sections[index][5]
    table = data[start : start + size]
    return [table[one[0] :].partition(b"\0")[0].decode(errors="replace") for one in sections]


def with_symbols(data: bytes, symbols: Sequence[Symbol]) -> bytes:
    """``data`` with a symbol table; what it held stays where it is.

    Raises:
        WireError: not an ELF file.
    """
    fields = list(_fields(data))
    old = [
        list(_SECTION.unpack_from(data, at)) for at in _offsets(data, "e_shoff", fields[6], fields[11], fields[12])
    ]
    names = _names(data, [tuple(one) for one in old], fields[13])
    spans = sorted(
        (one[3], one[3] + one[5], number)
        for number, one in enumerate(old)
        if one[2] & SHF_ALLOC and one[3] and one[5]
    )
    table, strings = _symbol_table(symbols, spans)
    labels = bytearray(b"\0")
    for section, name in zip(old, names, strict=True):
        section[0] = len(labels)
        labels += name.encode() + b"\0"
    count = len(old) + 3
    blobs = ((".symtab", SHT_SYMTAB, table), (".strtab", SHT_STRTAB, strings), (".shstrtab", SHT_STRTAB, b""))
    rows, body = list(old), bytearray(data)
    for name, kind, blob in blobs:
        label = len(labels)
        labels += name.encode() + b"\0"
        content = bytes(labels) if name == ".shstrtab" else blob
        body += bytes(-len(body) % 8)
        link, size = (len(old) + 1, _SYMBOL.size) if kind == SHT_SYMTAB else (0, 0)
        rows.append([label, kind, 0, 0, len(body), len(content), link, 1, 8 if size else 1, size])
        body += content
    body += bytes(-len(body) % 8)
    fields[6], fields[11], fields[12], fields[13] = len(body), _SECTION.size, count, count - 1
    body[: _HEADER.size] = _HEADER.pack(*fields)
    return bytes(body) + b"".join(_SECTION.pack(*row) for row in rows)


def _symbol_table(symbols: Sequence[Symbol], spans: Sequence[tuple[int, int, int]]) -> tuple[bytes, bytes]:
    """The table and its strings. All symbols are global, so that none has to come before the others."""
    starts = [start for start, _, _ in spans]
    table, strings = bytearray(_SYMBOL.size), bytearray(b"\0")
    for symbol in symbols:
        at = bisect_right(starts, symbol.address) - 1
        inside = at >= 0 and symbol.address < spans[at][1]
        kind = _STT_FUNC if symbol.kind in "tTwW" else _STT_OBJECT
        section = spans[at][2] if inside else SHN_ABS
        table += _SYMBOL.pack(len(strings), _STB_GLOBAL << 4 | kind, 0, section, symbol.address, 0)
        strings += symbol.name.encode() + b"\0"
    return bytes(table), bytes(strings)

"""The symbols that a Linux kernel carries for itself, found in its uncompressed image.

Source: Linux ``scripts/kallsyms.c`` (what is written, and in which order), ``kernel/kallsyms.c`` (how it is read):

- ``kallsyms_num_syms``: u32
- ``kallsyms_names``: per symbol a length (one byte, two from 128 on) and that many token numbers
- ``kallsyms_markers``: u32 offset into the names of every 256th symbol
- ``kallsyms_token_table``: 256 strings; ``kallsyms_token_index``: u16 offset of each
- ``kallsyms_offsets``: u32 of each symbol; ``kallsyms_relative_base``: u64

The last two stand after the token index from Linux 6.4 on, before the number of symbols in older ones. Each array
starts at a multiple of 8. Nothing names their places, so they are found by what they must contain.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from tdxstack.errors import WireError
from tdxstack.wire.elf import Symbol

TOKENS = 256
MARKER_SPAN = 256
ALIGNMENT = 8
KERNEL_MAP = 0xFFFFFFFF80000000
#: A kernel has some thousands of symbols at least, and not this many.
MIN_MARKERS, MAX_MARKERS = 8, 16384
MAX_NAME_TOKENS = 1024
_STRUCTURE = "kallsyms"
#: Tokens 0x30 to 0x39 always are the digits themselves.
_DIGITS = re.compile(b"".join(b"%d\0" % digit for digit in range(10)))


@dataclass(frozen=True, slots=True)
class _Tokens:
    start: int
    end: int
    strings: tuple[bytes, ...]


def symbols(image: bytes) -> tuple[Symbol, ...]:
    """Every symbol, in the order of addresses.

    Args:
        image: the kernel's uncompressed ELF file, or its memory.

    Raises:
        WireError: there are none, or the arrays contradict each other.
    """
    tokens = _find_tokens(image)
    markers = _markers(image, tokens.start)
    names_at, count = _find_names(image, tokens.start - 4 * len(markers), markers)
    addresses = _addresses(image, tokens.end, names_at, count)
    found = []
    for address, text in zip(addresses, _names(image, names_at, count, tokens), strict=True):
        found.append(Symbol(text[1:], text[:1], address))
    return tuple(found)


def _find_tokens(image: bytes) -> _Tokens:
    """The token table: 256 strings around the digits, followed by an index that tells their offsets."""
    for match in _DIGITS.finditer(image):
        start = match.start()
        for _ in range(ord("0")):
            start = image.rfind(b"\0", 0, start - 1) + 1
        if found := _tokens_at(image, start):
            return found
    raise WireError(_STRUCTURE, "kallsyms_token_table", 0, "not found: a kernel without CONFIG_KALLSYMS?")


def _tokens_at(image: bytes, start: int) -> _Tokens | None:
    strings, offsets, at = [], [], start
    for _ in range(TOKENS):
        end = image.find(b"\0", at, at + MAX_NAME_TOKENS)
        if end < 0:
            return None
        strings.append(image[at:end])
        offsets.append(at - start)
        at = end + 1
    if offsets[-1] > 0xFFFF:
        return None
    index = struct.pack(f"<{TOKENS}H", *offsets)
    place = image.find(index, at, at + ALIGNMENT + len(index))
    return _Tokens(start, place + len(index), tuple(strings)) if place >= 0 else None


def _markers(image: bytes, end: int) -> tuple[int, ...]:
    """The array of ascending offsets, from 0, that ends where the token table starts (but for padding)."""
    for last in (end - 4, end - 8):
        values: list[int] = []
        at = last
        while at >= 0 and len(values) < MAX_MARKERS:
            (value,) = struct.unpack_from("<I", image, at)
            if values and value >= values[-1]:
                break
            values.append(value)
            if value == 0:
                break
            at -= 4
        if len(values) >= MIN_MARKERS and values[-1] == 0:
            padding = [0] if last == end - 8 else []
            return (*reversed(values), *padding)
    raise WireError(_STRUCTURE, "kallsyms_markers", end, "not found before the token table")


def _find_names(image: bytes, markers_at: int, markers: tuple[int, ...]) -> tuple[int, int]:
    """Where the names start, and how many there are."""
    used = [value for number, value in enumerate(markers) if number == 0 or value]
    most = len(used) * MARKER_SPAN
    latest = markers_at - used[-1]
    for start in range(latest - latest % ALIGNMENT, latest - MARKER_SPAN * MAX_NAME_TOKENS, -ALIGNMENT):
        if start < ALIGNMENT:
            break
        for behind in (ALIGNMENT, 4):
            (count,) = struct.unpack_from("<I", image, start - behind)
            if most - MARKER_SPAN < count <= most and _agree(image, start, used, markers_at):
                return start, count
    raise WireError(_STRUCTURE, "kallsyms_num_syms", markers_at, "no number of symbols before the names")


def _agree(image: bytes, start: int, markers: list[int], limit: int) -> bool:
    """Whether 256 names from one marker on lead to the next, for the first markers."""
    at = start
    for marker in markers[1:MIN_MARKERS]:
        for _ in range(MARKER_SPAN):
            length, size = _length(image, at)
            at += size + length
            if at > limit:
                return False
        if at != start + marker:
            return False
    return True


def _length(image: bytes, at: int) -> tuple[int, int]:
    first = image[at]
    return (first, 1) if first < 0x80 else (first & 0x7F | image[at + 1] << 7, 2)


def _names(image: bytes, at: int, count: int, tokens: _Tokens) -> Iterator[str]:
    strings = tokens.strings
    for _ in range(count):
        length, size = _length(image, at)
        at += size
        yield b"".join([strings[token] for token in image[at : at + length]]).decode("latin-1")
        at += length


def _addresses(image: bytes, tokens_end: int, names_at: int, count: int) -> list[int]:
    """Addresses, from the offsets behind the token index (new order) or before the number of symbols (old order)."""
    size = 4 * count
    after = _aligned(tokens_end)
    before = names_at - 2 * ALIGNMENT - _aligned(size)
    for offsets_at, base_at in ((after, after + _aligned(size)), (before, before + _aligned(size))):
        if offsets_at < 0 or base_at + 8 > len(image):
            continue
        (base,) = struct.unpack_from("<Q", image, base_at)
        if base < KERNEL_MAP or base % 4096:
            continue
        signed = struct.unpack_from(f"<{count}i", image, offsets_at)
        if any(offset < 0 for offset in signed):
            # CONFIG_KALLSYMS_ABSOLUTE_PERCPU: what is not negative is an absolute value.
            return [offset if offset >= 0 else base - 1 - offset for offset in signed]
        return [base + offset for offset in signed]
    raise WireError(_STRUCTURE, "kallsyms_relative_base", tokens_end, "no base address of the kernel's map")


def _aligned(value: int) -> int:
    return value + -value % ALIGNMENT

"""Made-up firmware files with TDVF metadata, for tests."""

from __future__ import annotations

import lzma
import struct
from uuid import UUID

from tdxstack.wire.efi.volume import LZMA_GUID
from tdxstack.wire.tdvf import (
    METADATA_GUID,
    METADATA_OFFSET_GUID,
    TABLE_FOOTER_GUID,
    Section,
    SectionType,
)


def layout_4m(first_temporary: tuple[int, int]) -> tuple[Section, ...]:
    """Sections of a 4 MiB OVMF; releases differ in the first TEMP_MEM section."""
    return (
        Section(0x84000, 0x37C000, 0xFFC84000, 0x37C000, SectionType.BFV, 1),
        Section(0, 0x84000, 0xFFC00000, 0x84000, SectionType.CFV, 0),
        Section(0, 0, *first_temporary, SectionType.TEMP_MEM, 0),
        Section(0, 0, 0x80B000, 0x2000, SectionType.TEMP_MEM, 0),
        Section(0, 0, 0x809000, 0x2000, SectionType.TD_HOB, 0),
        Section(0, 0, 0x800000, 0x6000, SectionType.TEMP_MEM, 0),
    )


#: The layout known from TDs on hardware.
GENERIC_4M = layout_4m((0x810000, 0x10000))


def firmware_file(
    sections: tuple[Section, ...],
    *,
    layout: str = "ovmf",
    version: int = 1,
    length: int | None = None,
    count: int | None = None,
) -> bytes:
    """A file just large enough for its sections, filled with a pattern, with the metadata near its end."""
    ends = [section.data_offset + section.raw_size for section in sections]
    size = max([0x4000, *(end for end in ends if end <= 1 << 22)])
    descriptor = struct.pack(
        "<4sIII",
        b"TDVF",
        16 + 32 * len(sections) if length is None else length,
        version,
        len(sections) if count is None else count,
    )
    descriptor += b"".join(
        struct.pack("<IIQQII", s.data_offset, s.raw_size, s.gpa, s.memory_size, s.type, s.attributes)
        for s in sections
    )
    metadata = METADATA_GUID.bytes_le + descriptor
    if layout == "td-shim":
        tail = bytearray(32)
        offset = size - 32 - len(descriptor)
        struct.pack_into("<I", tail, 0, offset)
    else:
        entry = struct.pack("<I", 48 + 18 + 22 + len(descriptor) - 16) + struct.pack("<H", 22)
        table = entry + METADATA_OFFSET_GUID.bytes_le
        footer = struct.pack("<H", len(table) + 18) + TABLE_FOOTER_GUID.bytes_le
        tail = bytearray(table + footer + bytes(32))
    pattern = bytes((n * 7 + (n >> 8)) & 0xFF for n in range(65536)) * (size // 65536 + 1)
    return pattern[: size - len(metadata) - len(tail)] + metadata + bytes(tail)


def ffs_file(name: UUID, content: bytes) -> bytes:
    size = 24 + len(content)
    data = name.bytes_le + b"\0\0\x07\0" + size.to_bytes(3, "little") + b"\xf8" + content
    return data + b"\xff" * (-len(data) % 8)


def volume(*files: bytes) -> bytes:
    body = b"".join(files) + b"\xff" * 64
    header = bytearray(72)
    struct.pack_into("<Q4sIHHHBB", header, 32, 72 + len(body), b"_FVH", 0, 72, 0, 0, 0, 2)
    total = sum(struct.unpack("<36H", header)) & 0xFFFF
    struct.pack_into("<H", header, 50, -total & 0xFFFF)
    return bytes(header) + body


def compressed(payload: bytes) -> bytes:
    data = lzma.compress(payload, format=lzma.FORMAT_ALONE)
    return (24 + len(data)).to_bytes(3, "little") + b"\x02" + LZMA_GUID.bytes_le + struct.pack("<HH", 24, 1) + data


def strings(*texts: str) -> bytes:
    return b"".join(text.encode("utf-16-le") + b"\0\0\0\0" for text in texts)

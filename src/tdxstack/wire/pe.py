"""PE/COFF images: the Authenticode digest, as UEFI firmware measures an image it starts.

Source: Microsoft PE Format and Windows Authenticode Portable Executable Signature Format; edk2
``DxeTpm2MeasureBootLib`` (``MeasurePeImage``) for what firmware does at the edges: no padding to eight bytes, and
data behind the last section is hashed up to the certificate table.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tdxstack.errors import WireError

_SECTION_SIZE = 40
_SECURITY_DIRECTORY = 4
_SYMBOL_SIZE = 18
MAX_NAME = 256
MAX_SECTIONS = 96
PE32, PE32_PLUS = 0x10B, 0x20B


class _Hash(Protocol):
    def update(self, data: bytes | memoryview, /) -> None: ...
    def digest(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class PeSection:
    """One section header: name, file range, address range."""

    name: str
    virtual_size: int
    virtual_address: int
    raw_size: int
    raw_offset: int


@dataclass(frozen=True, slots=True)
class PeImage:
    """What hashing and reading sections need of an image. Offsets count from the file's start."""

    header_size: int
    checksum_offset: int
    security_offset: int | None
    certificate_table: tuple[int, int]
    sections: tuple[PeSection, ...]
    size: int

    @classmethod
    def from_bytes(cls, data: bytes) -> PeImage:
        """Read the headers.

        Raises:
            WireError: not a PE image, or ranges outside the file.
        """
        if len(data) < 0x40 or data[:2] != b"MZ":
            raise WireError("PE", "e_magic", 0, "not a PE image (no MZ)")
        (pe,) = struct.unpack_from("<I", data, 0x3C)
        if pe + 24 > len(data) or data[pe : pe + 4] != b"PE\0\0":
            raise WireError("PE", "Signature", 0x3C, f"no PE header at 0x{pe:x}")
        count, optional_size = struct.unpack_from("<H12xH", data, pe + 6)
        optional = pe + 24
        if not count <= MAX_SECTIONS:
            raise WireError("PE", "NumberOfSections", pe + 6, f"{count}, more than {MAX_SECTIONS}")
        if optional + max(optional_size, 96) > len(data):
            raise WireError("PE", "SizeOfOptionalHeader", pe + 20, f"{optional_size}")
        (magic,) = struct.unpack_from("<H", data, optional)
        if magic not in (PE32, PE32_PLUS):
            raise WireError("PE", "Magic", optional, f"0x{magic:x}")
        directories = optional + (96 if magic == PE32 else 112)
        (header_size,) = struct.unpack_from("<I", data, optional + 60)
        if directories > len(data) or header_size > len(data):
            raise WireError("PE", "SizeOfHeaders", optional + 60, f"{header_size} of {len(data)} bytes")
        (directory_count,) = struct.unpack_from("<I", data, directories - 4)
        security = directories + 8 * _SECURITY_DIRECTORY if directory_count > _SECURITY_DIRECTORY else None
        table = (0, 0)
        if security is not None:
            if security + 8 > header_size:
                raise WireError("PE", "DataDirectory", directories, "reaches past the headers")
            table = struct.unpack_from("<II", data, security)
        sections = _read_sections(data, optional + optional_size, count, _strings_of(data, pe))
        return cls(header_size, optional + 64, security, table, sections, len(data))

    def section(self, data: bytes, name: str) -> bytes | None:
        """Content of the first section of that name, cut to its virtual size; None if there is none."""
        for section in self.sections:
            if section.name == name:
                size = min(section.raw_size, section.virtual_size or section.raw_size)
                return data[section.raw_offset : section.raw_offset + size]
        return None


def _strings_of(data: bytes, pe: int) -> int:
    """Where the COFF string table starts, which holds names longer than eight bytes; 0 without one."""
    table, symbols = struct.unpack_from("<II", data, pe + 12)
    start = table + symbols * _SYMBOL_SIZE
    return start if table and start + 4 <= len(data) else 0


def _name(data: bytes, raw: bytes, strings: int) -> str:
    text = raw.rstrip(b"\0").decode("ascii", "replace")
    if strings and text.startswith("/") and text[1:].isdecimal():
        start = strings + int(text[1:])
        end = data.find(b"\0", start, start + MAX_NAME)
        return data[start:end].decode("ascii", "replace") if end > start else text
    return text


def _read_sections(data: bytes, table: int, count: int, strings: int) -> tuple[PeSection, ...]:
    if table + count * _SECTION_SIZE > len(data):
        raise WireError("PE", "sections", table, f"{count} do not fit the file")
    sections: list[PeSection] = []
    for offset in range(table, table + count * _SECTION_SIZE, _SECTION_SIZE):
        name, virtual_size, address, raw_size, raw_offset = struct.unpack_from("<8sIIII", data, offset)
        if raw_size and raw_offset + raw_size > len(data):
            raise WireError("PE", "SizeOfRawData", offset + 16, f"0x{raw_offset:x}+0x{raw_size:x} is past the end")
        sections.append(PeSection(_name(data, name, strings), virtual_size, address, raw_size, raw_offset))
    return tuple(sections)


def authenticode(data: bytes, *algorithms: str) -> tuple[bytes, ...]:
    """Authenticode digests of an image, one for each hashlib algorithm name.

    Raises:
        WireError: not a PE image, or one that firmware refuses to measure.
    """
    image = PeImage.from_bytes(data)
    hashes = [hashlib.new(name) for name in algorithms]

    def update(start: int, end: int) -> None:
        view = memoryview(data)[start:end]
        for digest in hashes:
            digest.update(view)

    _walk(image, update)
    return tuple(digest.digest() for digest in hashes)


def _walk(image: PeImage, update: Callable[[int, int], None]) -> None:
    """Steps 3 to 14 of the specification's hash computation."""
    update(0, image.checksum_offset)
    after = image.checksum_offset + 4
    if image.security_offset is None:
        update(after, image.header_size)
    else:
        update(after, image.security_offset)
        update(image.security_offset + 8, image.header_size)
    hashed = image.header_size
    for section in sorted(image.sections, key=lambda item: item.raw_offset):
        if section.raw_size:
            update(section.raw_offset, section.raw_offset + section.raw_size)
            hashed += section.raw_size
    certificates = image.certificate_table[1]
    if image.size > hashed:
        if hashed + certificates > image.size:
            raise WireError("PE", "certificate table", image.security_offset or 0, f"{certificates} bytes do not fit")
        update(hashed, image.size - certificates)

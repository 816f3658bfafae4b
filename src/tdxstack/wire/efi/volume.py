"""Firmware volumes: which modules a firmware file holds, also inside its compressed part.

Source: UEFI Platform Initialization 1.8, volume 3, section 3 (EFI_FIRMWARE_VOLUME_HEADER, EFI_FFS_FILE_HEADER,
EFI_COMMON_SECTION_HEADER, EFI_GUID_DEFINED_SECTION). OVMF packs its PEI and DXE volumes into one LZMA section.
"""

from __future__ import annotations

import lzma
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from tdxstack.errors import WireError

LZMA_GUID = UUID("ee4e5898-3914-4259-9d6e-dc7bd79403cf")
SIGNATURE = b"_FVH"
#: Limits. OVMF's volumes decompress to 12..16 MiB.
MAX_PAYLOAD = 128 << 20
MAX_COMPRESSED_SECTIONS = 8
MAX_FILES = 4096

_VOLUME = struct.Struct("<16s16sQ4sIHHHBB")
_FILE_HEADER = 24
_GUIDED = struct.Struct("<16sHH")


@dataclass(frozen=True, slots=True)
class FirmwareFile:
    """One FFS file: its name, EFI_FV_FILETYPE, and content behind the header."""

    name: UUID
    type: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Volume:
    """One firmware volume, as it lies in memory; ``data`` starts with its header."""

    offset: int
    data: bytes

    @property
    def header_length(self) -> int:
        return int.from_bytes(self.data[48:50], "little")

    def files(self) -> Iterator[FirmwareFile]:
        """The files in order; ends at free space or where the volume is damaged."""
        position = self.header_length
        for _ in range(MAX_FILES):
            position = (position + 7) & ~7
            header = self.data[position : position + _FILE_HEADER]
            if len(header) < _FILE_HEADER or header == b"\xff" * _FILE_HEADER:
                return
            size = int.from_bytes(header[20:23], "little")
            start = position + _FILE_HEADER
            if header[19] & 0x01:  # FFS_ATTRIB_LARGE_FILE: the size is a u64 behind the header
                size = int.from_bytes(self.data[start : start + 8], "little")
                start += 8
            if size < start - position or position + size > len(self.data):
                return
            yield FirmwareFile(UUID(bytes_le=header[:16]), header[18], self.data[start : position + size])
            position += size


def volumes(data: bytes) -> list[Volume]:
    """The volumes in ``data``, those inside others left out."""
    found: list[Volume] = []
    position, end = -1, 0
    while (position := data.find(SIGNATURE, position + 1)) >= 0:
        start = position - 40
        if start < end or start + _VOLUME.size > len(data):
            continue
        length = int.from_bytes(data[start + 32 : start + 40], "little")
        header_length, revision = _header_fields(data, start)
        plausible = _VOLUME.size < header_length <= length <= len(data) - start and revision in (1, 2)
        if plausible and not _sum16(data[start : start + header_length]):
            found.append(Volume(start, data[start : start + length]))
            end = start + length
    return found


def _header_fields(data: bytes, start: int) -> tuple[int, int]:
    return int.from_bytes(data[start + 48 : start + 50], "little"), data[start + 55]


def _sum16(data: bytes) -> int:
    words = struct.unpack(f"<{len(data) // 2}H", data[: len(data) & ~1])
    return int(sum(words)) & 0xFFFF


def payloads(firmware: bytes) -> list[bytes]:
    """The decompressed LZMA sections of a firmware file, in order.

    Raises:
        WireError: a section is damaged or decompresses to more than MAX_PAYLOAD.
    """
    found: list[bytes] = []
    position = -1
    while (position := firmware.find(LZMA_GUID.bytes_le, position + 1)) >= 0:
        start = position - 4
        if start < 0 or position + _GUIDED.size > len(firmware) or firmware[start + 3] != 0x02:
            continue
        size = int.from_bytes(firmware[start : start + 3], "little")
        if size == 0xFFFFFF:
            size = len(firmware) - start
        data_offset = _GUIDED.unpack_from(firmware, position)[1]
        if not _GUIDED.size + 4 <= data_offset <= size or start + size > len(firmware):
            continue
        found.append(_decompress(firmware[start + data_offset : start + size], start))
        if len(found) > MAX_COMPRESSED_SECTIONS:
            raise WireError("firmware volume", "LZMA section", start, f"more than {MAX_COMPRESSED_SECTIONS}")
        position = start + size - 1
    return found


def _decompress(data: bytes, at: int) -> bytes:
    try:
        plain = lzma.LZMADecompressor(format=lzma.FORMAT_ALONE, memlimit=256 << 20).decompress(data, MAX_PAYLOAD + 1)
    except (lzma.LZMAError, EOFError, ValueError) as error:
        raise WireError("firmware volume", "LZMA section", at, str(error)) from None
    if len(plain) > MAX_PAYLOAD:
        raise WireError("firmware volume", "LZMA section", at, f"decompresses to more than {MAX_PAYLOAD} bytes")
    return plain

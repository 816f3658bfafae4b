"""shim, the first-stage boot loader: what it measures of the keys it holds.

Source: rhboot/shim ``mok.c`` (mirrored variables, measured into PCR 14 and PCR 7 before the second stage is loaded),
``sbat.c`` and ``sbat_var.S`` (SbatLevel), ``cert.S`` (section ``.vendor_cert``), as of versions 15.7 to 16.1.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from uuid import UUID

from tdxstack.errors import WireError
from tdxstack.wire.efi.signatures import CERT_X509
from tdxstack.wire.efi.variable import VariableData
from tdxstack.wire.pe import PeImage

SHIM_LOCK = UUID("605dab50-e046-4300-abb6-3dd810dd8b23")
#: What a shim starts unless it is told otherwise, in its own directory.
SECOND_STAGE = "grubx64.efi"
#: Started in place of the second stage where it is there.
FALLBACK = "fbx64.efi"
SBAT_LEVEL_OFF = b"sbat,1,2021030218\n"
_TABLE = struct.Struct("<IIII")
_LEVELS = struct.Struct("<III")
_LIST = struct.Struct("<16sIII")
MAX_LEVEL = 4096


@dataclass(frozen=True, slots=True)
class Shim:
    """One shim: the vendor's certificate or signature lists, its forbidden list, and the SbatLevel it sets."""

    vendor_authorized: bytes
    vendor_forbidden: bytes
    previous_level: bytes

    @classmethod
    def from_bytes(cls, image: bytes) -> Shim | None:
        """What of it counts, or None if the image is no shim.

        Raises:
            WireError: no PE image, or a damaged section.
        """
        headers = PeImage.from_bytes(image)
        table = headers.section(image, ".vendor_cert")
        if table is None:
            return None
        if len(table) < _TABLE.size:
            raise WireError("shim", ".vendor_cert", 0, f"{len(table)} bytes")
        size, forbidden_size, start, forbidden_start = _TABLE.unpack_from(table)
        if start + size > len(table) or forbidden_start + forbidden_size > len(table):
            raise WireError("shim", ".vendor_cert", 0, "a certificate or list reaches past the section")
        forbidden = table[forbidden_start : forbidden_start + forbidden_size]
        return cls(table[start : start + size], forbidden, _previous_level(headers.section(image, ".sbatlevel")))

    def mok_list(self) -> bytes:
        """MokListRT of a machine without a MokList: the vendor's key. A bare certificate gets a list of its own."""
        vendor = self.vendor_authorized
        if not vendor.startswith(b"\x30"):
            return vendor
        size = 16 + len(vendor)
        return _LIST.pack(CERT_X509.bytes_le, _LIST.size + size, 0, size) + SHIM_LOCK.bytes_le + vendor

    def mok_list_x(self) -> bytes:
        """MokListXRT of a machine without a MokListX: what the vendor forbids."""
        return self.vendor_forbidden

    def sbat_level(self, *, secure_boot: bool) -> VariableData:
        """SbatLevel, as measured into PCR 7: the oldest level where secure boot is off."""
        level = self.previous_level if secure_boot else SBAT_LEVEL_OFF
        return VariableData(SHIM_LOCK, "SbatLevel", level)


def _previous_level(section: bytes | None) -> bytes:
    """The level that a shim sets by default, without its final NUL."""
    if section is None or len(section) < _LEVELS.size:
        return b""
    _, previous, _ = _LEVELS.unpack_from(section)
    # Offsets count from behind the version.
    start = 4 + previous
    return section[start : start + MAX_LEVEL].partition(b"\0")[0]

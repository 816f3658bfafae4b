"""The ACPI table CCEL: where a confidential VM's event log is.

Source: ACPI 6.5, section 5.2.34; Intel TDX Virtual Firmware Design Guide, section 4.3.3. 56 bytes: the 36-byte ACPI
header, CC type and subtype, the log area's minimum length (LAML) and its start address (LASA).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from tdxstack.errors import WireError

SIGNATURE = b"CCEL"
SIZE = 56
_TABLE = struct.Struct("<4sIBB6s8sI4sIBBHQQ")


class CcType(IntEnum):
    """Kind of confidential VM."""

    NONE = 0
    SEV = 1
    TDX = 2


@dataclass(frozen=True, slots=True)
class CcelTable:
    """``EFI_CC_EVENTLOG_ACPI_TABLE``. ``log_area_minimum_length`` is in bytes."""

    log_area_minimum_length: int
    log_area_start_address: int
    cc_type: int = CcType.TDX
    cc_subtype: int = 0
    revision: int = 1
    oem_id: bytes = b"TDXSTK"
    oem_table_id: bytes = b"CCEL    "
    oem_revision: int = 1
    creator_id: bytes = b"TDXS"
    creator_revision: int = 1
    reserved: int = 0

    @classmethod
    def from_bytes(cls, data: bytes) -> CcelTable:
        """Read the table; ``data`` may be longer than the table says.

        Raises:
            WireError: wrong signature, length or checksum.
        """
        if len(data) < SIZE:
            raise WireError("CCEL", "Length", 0, f"{len(data)} bytes, {SIZE} needed")
        (signature, length, revision, _, oem_id, oem_table, oem_revision, creator, creator_revision, *rest) = (
            _TABLE.unpack_from(data)
        )
        cc_type, cc_subtype, reserved, laml, lasa = rest
        if signature != SIGNATURE:
            raise WireError("CCEL", "Signature", 0, f"{signature!r}")
        if length != SIZE:
            raise WireError("CCEL", "Length", 4, f"{length}, not {SIZE}")
        if sum(data[:SIZE]) & 0xFF:
            raise WireError("CCEL", "Checksum", 9, "the table's bytes do not add up to zero")
        return cls(
            laml,
            lasa,
            cc_type,
            cc_subtype,
            revision,
            oem_id,
            oem_table,
            oem_revision,
            creator,
            creator_revision,
            reserved,
        )

    def to_bytes(self) -> bytes:
        """The 56 bytes, with the right checksum."""
        data = bytearray(
            _TABLE.pack(
                SIGNATURE,
                SIZE,
                self.revision,
                0,
                self.oem_id,
                self.oem_table_id,
                self.oem_revision,
                self.creator_id,
                self.creator_revision,
                self.cc_type,
                self.cc_subtype,
                self.reserved,
                self.log_area_minimum_length,
                self.log_area_start_address,
            )
        )
        data[9] = -sum(data) & 0xFF
        return bytes(data)

"""EFI signature lists: what PK, KEK, db and dbx hold.

Source: UEFI 2.10, section 32.4.1 (EFI_SIGNATURE_LIST, EFI_SIGNATURE_DATA).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from uuid import UUID

from tdxstack.errors import WireError

CERT_X509 = UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
CERT_SHA256 = UUID("c1c41626-504c-4092-aca9-41f936934328")
_HEADER = struct.Struct("<16sIII")
_OWNER = 16
MAX_LISTS = 1024
MAX_SIGNATURES = 65536


@dataclass(frozen=True, slots=True)
class Signature:
    """EFI_SIGNATURE_DATA: a certificate (DER) or a digest, and the GUID of whoever put it there."""

    owner: UUID
    data: bytes

    def to_bytes(self) -> bytes:
        return self.owner.bytes_le + self.data


@dataclass(frozen=True, slots=True)
class SignatureList:
    """EFI_SIGNATURE_LIST: signatures of one type and one size."""

    type: UUID
    signatures: tuple[Signature, ...]
    header: bytes = b""

    def to_bytes(self) -> bytes:
        """The list. Raises WireError if the signatures differ in size."""
        sizes = {len(one.data) for one in self.signatures}
        if len(sizes) > 1:
            raise WireError("EFI_SIGNATURE_LIST", "SignatureSize", 24, "signatures of one list differ in size")
        size = _OWNER + (sizes.pop() if sizes else 0)
        body = self.header + b"".join(one.to_bytes() for one in self.signatures)
        return _HEADER.pack(self.type.bytes_le, _HEADER.size + len(body), len(self.header), size) + body


def read_lists(data: bytes) -> tuple[SignatureList, ...]:
    """Read a variable's value.

    Raises:
        WireError: the sizes do not add up.
    """
    found: list[SignatureList] = []
    position = 0
    while position < len(data):
        if position + _HEADER.size > len(data) or len(found) >= MAX_LISTS:
            raise WireError("EFI_SIGNATURE_LIST", "SignatureType", position, "the list is cut short")
        kind, total, header_size, size = _HEADER.unpack_from(data, position)
        room = total - _HEADER.size - header_size
        if total > len(data) - position or room < 0 or size < _OWNER or room % size or room // size > MAX_SIGNATURES:
            raise WireError("EFI_SIGNATURE_LIST", "SignatureListSize", position + 16, f"{total} bytes of {size} each")
        start = position + _HEADER.size + header_size
        entries = tuple(
            Signature(UUID(bytes_le=data[at : at + _OWNER]), data[at + _OWNER : at + size])
            for at in range(start, position + total, size)
        )
        found.append(SignatureList(UUID(bytes_le=kind), entries, data[position + _HEADER.size : start]))
        position += total
    return tuple(found)

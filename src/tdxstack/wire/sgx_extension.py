"""The SGX extension of a PCK certificate, OID 1.2.840.113741.1.13.1.

Intel SGX PCK Certificate and CRL Profile Specification, section 1.3.5. It is a SEQUENCE of SEQUENCE {OID, value},
nested once for the TCB (.2) and the configuration (.7); the values are read from DER here, since the certificate's
own structure is ``cryptography``'s business and this one is Intel's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from tdxstack.wire.der import BOOLEAN, ENUMERATED, INTEGER, OCTET_STRING, OID, SEQUENCE, tlv

SGX_EXTENSION_OID = "1.2.840.113741.1.13.1"
#: DER of the OID 1.2.840.113741.1.13.1, without tag and length: what the OIDs inside the extension start with.
_ARC = bytes.fromhex("2a864886f84d010d01")


class SgxType(IntEnum):
    """How the platform protects memory."""

    STANDARD = 0
    SCALABLE = 1
    SCALABLE_WITH_INTEGRITY = 2


class ExtensionFault(ValueError):
    """The extension is not what the profile demands; says what."""


@dataclass(frozen=True, slots=True)
class PckTcb:
    """TCB of the platform: 16 component SVNs (one byte each), PCE SVN, and the raw CPUSVN they were made of."""

    components: bytes
    pce_svn: int
    cpu_svn: bytes


@dataclass(frozen=True, slots=True)
class SgxExtension:
    """What the extension says. The last five are None in a certificate of the Processor CA."""

    ppid: bytes
    tcb: PckTcb
    pce_id: bytes
    fmspc: bytes
    sgx_type: int
    platform_instance_id: bytes | None = None
    dynamic_platform: bool | None = None
    cached_keys: bool | None = None
    smt_enabled: bool | None = None

    @classmethod
    def from_der(cls, der: bytes) -> SgxExtension:
        """Read the extension's value. Raises ExtensionFault."""
        try:
            entries = _entries(_whole(der, SEQUENCE))
        except IndexError:
            raise ExtensionFault("DER ends early") from None
        if len(entries) not in (5, 7):
            raise ExtensionFault(f"{len(entries)} entries where 5 (Processor CA) or 7 (Platform CA) belong")
        fields = dict(entries)
        try:
            configuration = dict(_entries(fields[b"\x07"][1])) if b"\x07" in fields else {}
            return cls(
                ppid=_octets(fields, 1, 16),
                tcb=_tcb(fields),
                pce_id=_octets(fields, 3, 2),
                fmspc=_octets(fields, 4, 6),
                sgx_type=_number(fields, 5, ENUMERATED),
                platform_instance_id=_octets(fields, 6, 16) if b"\x06" in fields else None,
                dynamic_platform=_flag(configuration, 1),
                cached_keys=_flag(configuration, 2),
                smt_enabled=_flag(configuration, 3),
            )
        except KeyError as missing:
            raise ExtensionFault(f"entry .{int.from_bytes(missing.args[0], 'big')} is missing") from None
        except IndexError:
            raise ExtensionFault("DER ends early") from None


def find_in_certificate(der: bytes) -> SgxExtension | None:
    """The extension of a certificate's DER, found by its OID; None if there is none. Raises ExtensionFault.

    For showing what a certificate says, where there is no X.509 library; verification reads certificates properly.
    """
    at = der.find(b"\x06\x09" + _ARC)
    if at < 0:
        return None
    try:
        tag, start, end = tlv(der, at + 2 + len(_ARC))
        if tag == BOOLEAN:
            tag, start, end = tlv(der, end)
    except IndexError:
        raise ExtensionFault("DER ends early") from None
    return SgxExtension.from_der(der[start:end]) if tag == OCTET_STRING else None


_Fields = dict[bytes, tuple[int, bytes]]


def _tcb(fields: _Fields) -> PckTcb:
    tag, body = fields[b"\x02"]
    if tag != SEQUENCE:
        raise ExtensionFault("entry .2 (TCB) is not a sequence")
    inner = {oid[1:]: value for oid, value in _entries(body) if oid[:1] == b"\x02"}
    components = bytes(_number(inner, index, INTEGER) & 0xFF for index in range(1, 17))
    return PckTcb(components, _number(inner, 17, INTEGER), _octets(inner, 18, 16))


def _octets(fields: _Fields, number: int, size: int) -> bytes:
    tag, value = fields[bytes([number])]
    if tag != OCTET_STRING or len(value) != size:
        raise ExtensionFault(f"entry .{number} is not an octet string of {size} bytes")
    return value


def _number(fields: _Fields, number: int, wanted: int) -> int:
    tag, value = fields[bytes([number])]
    if tag != wanted or not 1 <= len(value) <= 4 or value[0] & 0x80:
        raise ExtensionFault(f"entry .{number} is not a small number")
    return int.from_bytes(value, "big")


def _flag(fields: _Fields, number: int) -> bool | None:
    for oid, (tag, value) in fields.items():
        if oid == bytes([7, number]):
            if tag != BOOLEAN or len(value) != 1:
                raise ExtensionFault(f"entry .7.{number} is not a boolean")
            return value != b"\0"
    return None


def _entries(body: bytes) -> list[tuple[bytes, tuple[int, bytes]]]:
    """SEQUENCE {OID, value} after SEQUENCE {OID, value}: each OID after Intel's arc, each value's tag and bytes."""
    entries = []
    at = 0
    while at < len(body):
        tag, start, end = tlv(body, at)
        if tag != SEQUENCE:
            raise ExtensionFault("an entry is not a sequence")
        oid_start = start + 2
        oid_end = oid_start + body[start + 1]
        value_tag, value_start, value_end = tlv(body, oid_end)
        if body[start] != OID or not body.startswith(_ARC, oid_start) or value_end != end:
            raise ExtensionFault("an entry is not an OID of Intel's with one value")
        entries.append((body[oid_start + len(_ARC) : oid_end], (value_tag, body[value_start:value_end])))
        at = end
    return entries


def _whole(data: bytes, wanted: int) -> bytes:
    tag, start, end = tlv(data, 0)
    if tag != wanted or end != len(data):
        raise ExtensionFault("not one sequence")
    return data[start:end]

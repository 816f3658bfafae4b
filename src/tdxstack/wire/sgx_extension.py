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
#: SVNs of 16 components, PCESVN and CPUSVN.
_TCB_ENTRIES = 18
_TCB_NUMBERS = frozenset(bytes([number]) for number in range(1, _TCB_ENTRIES + 1))


class SgxType(IntEnum):
    """How the platform protects memory."""

    STANDARD = 0
    SCALABLE = 1
    SCALABLE_WITH_INTEGRITY = 2


class ExtensionFault(ValueError):
    """The extension is not what the profile demands; says what. ``missing``: parts are absent, or there are too many;
    otherwise one has the wrong form. (QVL tells the two apart.)"""

    def __init__(self, text: str, *, missing: bool = False) -> None:
        super().__init__(text)
        self.missing = missing


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
        """Read the extension's value. Raises ExtensionFault.

        Like QVL's four calls it does not judge the entries that only a Platform CA's certificates have: where they
        are not what they should be, their fields are None.
        """
        fields = dict(_entries(_outermost(der), (5, 7)))
        missing = [number for number in range(1, 6) if bytes([number]) not in fields]
        if missing:
            raise ExtensionFault(f"entry .{missing[0]} is missing", missing=True)
        configuration = _configuration(fields)
        instance = fields.get(b"\x06", (0, b""))
        return cls(
            ppid=_octets(fields, 1, 16),
            tcb=_tcb(fields),
            pce_id=_octets(fields, 3, 2),
            fmspc=_octets(fields, 4, 6),
            sgx_type=_number(fields, 5, ENUMERATED),
            platform_instance_id=instance[1] if (instance[0], len(instance[1])) == (OCTET_STRING, 16) else None,
            dynamic_platform=_flag(configuration, 1),
            cached_keys=_flag(configuration, 2),
            smt_enabled=_flag(configuration, 3),
        )


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
    inner = {oid[1:]: value for oid, value in _entries(body, (_TCB_ENTRIES,)) if oid[:1] == b"\x02"}
    if not inner.keys() >= _TCB_NUMBERS:
        missing = next(number for number in range(1, _TCB_ENTRIES + 1) if bytes([number]) not in inner)
        raise ExtensionFault(f"entry .2.{missing} is missing", missing=True)
    components = bytes(_number(inner, index, INTEGER) & 0xFF for index in range(1, 17))
    return PckTcb(components, _number(inner, 17, INTEGER) & 0xFFFFFFFF, _octets(inner, 18, 16))


def _octets(fields: _Fields, number: int, size: int) -> bytes:
    tag, value = fields[bytes([number])]
    if tag != OCTET_STRING or len(value) != size:
        raise ExtensionFault(f"entry .{number} is not an octet string of {size} bytes")
    return value


def _number(fields: _Fields, number: int, wanted: int) -> int:
    """A signed number; one of more than 64 bits is -1, as OpenSSL gives it."""
    tag, value = fields[bytes([number])]
    if tag != wanted or not value:
        raise ExtensionFault(f"entry .{number} is not a number")
    return int.from_bytes(value, "big", signed=True) if len(value) <= 8 else -1


def _configuration(fields: _Fields) -> _Fields:
    tag, body = fields.get(b"\x07", (0, b""))
    try:
        return dict(_entries(body, (3,))) if tag == SEQUENCE else {}
    except ExtensionFault:
        return {}


def _flag(configuration: _Fields, number: int) -> bool | None:
    tag, value = configuration.get(bytes([7, number]), (0, b""))
    return value != b"\0" if tag == BOOLEAN and len(value) == 1 else None


def _entries(body: bytes, counts: tuple[int, ...]) -> list[tuple[bytes, tuple[int, bytes]]]:
    """SEQUENCE {OID, value} after SEQUENCE {OID, value}: each OID after Intel's arc, each value's tag and bytes.

    An OID outside of that arc is given as an empty one: entries that are not known are not looked at.
    """
    try:
        entries = _plain_entries(body)
    except IndexError:  # told apart by reading every part
        entries = []
    if len(entries) in counts:
        return entries
    found = _sequence(body)
    if len(found) not in counts:
        raise ExtensionFault(f"{len(found)} entries where {' or '.join(map(str, counts))} belong", missing=True)
    entries = []
    for tag, pair in found:
        if tag != SEQUENCE:
            raise ExtensionFault("an entry is not a sequence")
        parts = _sequence(pair)
        if len(parts) != 2:
            raise ExtensionFault(f"an entry has {len(parts)} parts, not OID and value", missing=True)
        (oid_tag, oid), value = parts
        if oid_tag != OID:
            raise ExtensionFault("an entry does not start with an OID")
        entries.append((oid[len(_ARC) :] if oid.startswith(_ARC) else b"", value))
    return entries


def _plain_entries(body: bytes) -> list[tuple[bytes, tuple[int, bytes]]]:
    """The same for entries of the form that Intel writes, a certificate's 28 of them quickly. Raises IndexError."""
    entries = []
    at, skip = 0, len(_ARC)
    while at < len(body):
        tag, start, end = (body[at], at + 2, at + 2 + body[at + 1]) if body[at + 1] < 0x80 else tlv(body, at)
        value = start + 2 + body[start + 1]
        if tag != SEQUENCE or body[start] != OID or not body.startswith(_ARC, start + 2) or end > len(body):
            raise IndexError("not an OID of Intel's arc in a sequence")
        size = body[value + 1]
        inner, stop = (value + 2, value + 2 + size) if size < 0x80 else tlv(body, value)[1:]
        if stop != end:
            raise IndexError("not two parts")
        entries.append((body[start + 2 + skip : value], (body[value], body[inner:stop])))
        at = end
    return entries


def _sequence(body: bytes) -> list[tuple[int, bytes]]:
    """Tag and contents of each element, which together fill ``body``."""
    found = []
    at = 0
    try:
        while at < len(body):
            tag, start, at = tlv(body, at)
            found.append((tag, body[start:at]))
    except IndexError:
        raise ExtensionFault("DER ends early") from None
    return found


def _outermost(data: bytes) -> bytes:
    """Contents of the sequence that the value is; what comes after it is not looked at."""
    try:
        tag, start, end = tlv(data, 0)
    except IndexError:
        raise ExtensionFault("not DER", missing=True) from None
    if tag != SEQUENCE:
        raise ExtensionFault("not a sequence")
    return data[start:end]

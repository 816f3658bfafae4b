"""Intel's SGX extension of PCK certificates, written as DER.

Source: Intel SGX PCK Certificate and Certificate Revocation List Profile Specification, section 1.3.5: a SEQUENCE of
``SEQUENCE { OBJECT IDENTIFIER, value }`` under 1.2.840.113741.1.13.1, in the order of the OIDs' last arcs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

#: Contents of the OBJECT IDENTIFIER 1.2.840.113741.1.13.1, without tag and length.
_OID = bytes.fromhex("2a864886f84d010d01")
SGX_EXTENSION_OID = "1.2.840.113741.1.13.1"

_BOOLEAN, _INTEGER, _OCTET_STRING, _OBJECT_IDENTIFIER, _ENUMERATED, _SEQUENCE = 0x01, 0x02, 0x04, 0x06, 0x0A, 0x30


class SgxType(IntEnum):
    """How the platform's memory is protected (``.5``)."""

    STANDARD = 0
    SCALABLE = 1
    SCALABLE_WITH_INTEGRITY = 2


@dataclass(frozen=True, slots=True)
class SgxExtension:
    """What a PCK certificate says about its platform.

    Sizes in bytes: ``ppid`` 16, ``components`` 16 SVNs of 0..255, ``cpusvn`` 16, ``pceid`` 2, ``fmspc`` 6,
    ``platform_instance_id`` 16.
    """

    ppid: bytes
    components: bytes
    pcesvn: int
    cpusvn: bytes
    pceid: bytes
    fmspc: bytes
    platform_instance_id: bytes
    sgx_type: SgxType = SgxType.SCALABLE
    dynamic_platform: bool = True
    cached_keys: bool = True
    smt_enabled: bool = True

    def to_bytes(self) -> bytes:
        """The extension's value: a DER SEQUENCE."""
        tcb = [_entry((2, index + 1), _integer(svn)) for index, svn in enumerate(self.components)]
        tcb += [_entry((2, 17), _integer(self.pcesvn)), _entry((2, 18), _der(_OCTET_STRING, self.cpusvn))]
        flags = (self.dynamic_platform, self.cached_keys, self.smt_enabled)
        configuration = [
            _entry((7, index + 1), _der(_BOOLEAN, b"\xff" if flag else b"\0")) for index, flag in enumerate(flags)
        ]
        entries = [
            _entry((1,), _der(_OCTET_STRING, self.ppid)),
            _entry((2,), _der(_SEQUENCE, b"".join(tcb))),
            _entry((3,), _der(_OCTET_STRING, self.pceid)),
            _entry((4,), _der(_OCTET_STRING, self.fmspc)),
            _entry((5,), _der(_ENUMERATED, bytes([self.sgx_type]))),
            _entry((6,), _der(_OCTET_STRING, self.platform_instance_id)),
            _entry((7,), _der(_SEQUENCE, b"".join(configuration))),
        ]
        return _der(_SEQUENCE, b"".join(entries))


def _der(tag: int, contents: bytes) -> bytes:
    size = len(contents)
    if size < 0x80:
        return bytes([tag, size]) + contents
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + contents


def _integer(value: int) -> bytes:
    return _der(_INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _entry(arcs: tuple[int, ...], value: bytes) -> bytes:
    return _der(_SEQUENCE, _der(_OBJECT_IDENTIFIER, _OID + bytes(arcs)) + value)

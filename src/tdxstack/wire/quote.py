"""ECDSA quotes: version 3 (SGX), 4 and 5 (TDX, SGX), and the certification data inside them.

Intel SGX ECDSA QuoteLibReference (DCAP API), appendix A; Intel TDX DCAP Quoting Library API, appendix A.

::

    header 48 | body (v5: type u16, size u32, then the body) | size u32 | signature data | trailing bytes
    signature data, v3:    signature 64 | attestation key 64 | QE certification
    signature data, v4/v5: signature 64 | attestation key 64 | type u16 | size u32 | data  (type 6: QE certification)
    QE certification:      QE report 384 | its signature 64 | size u16 | QE auth data | type u16 | size u32 | data

A quote is read here if it has this form; whether its types, sizes and vendor are ones that a verifier accepts is the
verifier's business.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from tdxstack.errors import WireError
from tdxstack.wire.layout import Layout
from tdxstack.wire.sgx_report import SGX_REPORT_BODY_SIZE, SgxReportBody
from tdxstack.wire.td_report_body import BODY_SIZES, BodyType, TdExtension, TdReportBody

__all__ = [
    "BODY_SIZES",
    "INTEL_QE_VENDOR_ID",
    "AttestationKeyType",
    "BodyType",
    "CertificationData",
    "CertificationType",
    "PckIdentity",
    "QeCertification",
    "Quote",
    "QuoteHeader",
    "QuoteSignature",
    "TdExtension",
    "TdReportBody",
    "TeeType",
]

HEADER_SIZE = 48
#: Nothing that is longer is read: real quotes have 4 to 8 KiB, a platform manifest adds some tens of KiB.
MAX_QUOTE_SIZE = 1 << 20
#: QE vendor id of Intel's quoting enclaves.
INTEL_QE_VENDOR_ID = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")

_SIGNATURE_SIZE = 64
_KEY_SIZE = 64


class TeeType(IntEnum):
    """Header field ``tee_type``."""

    SGX = 0
    TDX = 0x81


class AttestationKeyType(IntEnum):
    """Header field ``att_key_type``."""

    ECDSA_P256 = 2
    ECDSA_P384 = 3


class CertificationType(IntEnum):
    """What the certification data is; 1..3 identify the PCK certificate, 4 and 5 hold it."""

    PPID_CLEAR = 1
    PPID_RSA2048 = 2
    PPID_RSA3072 = 3
    PCK_LEAF = 4
    PCK_CHAIN = 5
    QE_REPORT = 6
    PLATFORM_MANIFEST = 7


_HEADER = Layout(
    "QUOTE_HEADER",
    version="H",
    att_key_type="H",
    tee_type="I",
    qe_svn="H",
    pce_svn="H",
    qe_vendor_id="16s",
    user_data="20s",
)


@dataclass(frozen=True, slots=True)
class QuoteHeader:
    """Quote header (48 bytes). ``qe_svn`` and ``pce_svn`` are reserved from version 4 on."""

    version: int
    tee_type: int = TeeType.TDX
    att_key_type: int = AttestationKeyType.ECDSA_P256
    qe_svn: int = 0
    pce_svn: int = 0
    qe_vendor_id: bytes = INTEL_QE_VENDOR_ID
    user_data: bytes = bytes(20)

    @classmethod
    def from_bytes(cls, data: bytes) -> QuoteHeader:
        """Read the first 48 bytes. Raises WireError if there are fewer, or if they are of another form."""
        version, key_type, tee_type, qe_svn, pce_svn, vendor, user_data = _HEADER.unpack(data)
        if version not in (3, 4, 5):
            raise WireError(_HEADER.structure, "version", 0, f"{version} is not 3, 4 or 5")
        if key_type != AttestationKeyType.ECDSA_P256:
            raise WireError(_HEADER.structure, "att_key_type", 2, f"{key_type} is not 2 (ECDSA P-256)")
        if tee_type not in (TeeType.SGX, TeeType.TDX) or (version == 3 and tee_type != TeeType.SGX):
            raise WireError(_HEADER.structure, "tee_type", 4, f"{tee_type:#x} in a version {version} quote")
        return cls(version, tee_type, key_type, qe_svn, pce_svn, vendor, user_data)

    def to_bytes(self) -> bytes:
        """The 48 bytes. Raises WireError if a field has the wrong length."""
        return _HEADER.pack(*(getattr(self, name) for name in _HEADER.names))


@dataclass(frozen=True, slots=True)
class PckIdentity:
    """Certification data of type 1, 2 and 3: what names the PCK certificate to ask the provisioning service for."""

    ppid: bytes
    cpu_svn: bytes
    pce_svn: int
    pce_id: int

    def to_bytes(self) -> bytes:
        """The 36, 276 or 404 bytes."""
        return self.ppid + self.cpu_svn + struct.pack("<HH", self.pce_svn, self.pce_id)


#: Bytes of the PPID (clear, or encrypted with RSA-2048 or RSA-3072) in certification data of type 1, 2 and 3.
PPID_SIZES = {
    CertificationType.PPID_CLEAR: 16,
    CertificationType.PPID_RSA2048: 256,
    CertificationType.PPID_RSA3072: 384,
}


@dataclass(frozen=True, slots=True)
class CertificationData:
    """Certification data as it stands: type and bytes."""

    type: int
    data: bytes

    def pck_identity(self) -> PckIdentity:
        """The fields of type 1, 2 or 3. Raises WireError for another type or a wrong length."""
        if self.type not in PPID_SIZES:
            raise WireError("CERTIFICATION_DATA", "type", 0, f"{self.type} does not hold a PPID")
        size = PPID_SIZES[CertificationType(self.type)]
        if len(self.data) != size + 20:
            raise WireError("CERTIFICATION_DATA", "size", 2, f"{len(self.data)} bytes where {size + 20} belong")
        pce_svn, pce_id = struct.unpack_from("<HH", self.data, size + 16)
        return PckIdentity(self.data[:size], self.data[size : size + 16], pce_svn, pce_id)

    @property
    def size(self) -> int:
        """Bytes that it has in a quote."""
        return 6 + len(self.data)

    def to_bytes(self) -> bytes:
        """Type, size and data."""
        return struct.pack("<HI", self.type, len(self.data)) + self.data


@dataclass(frozen=True, slots=True)
class QeCertification:
    """The quoting enclave's report, its signature by the PCK key, and what certifies that key."""

    qe_report: SgxReportBody
    qe_report_signature: bytes
    qe_auth_data: bytes
    certification: CertificationData

    @classmethod
    def unpack_from(cls, data: bytes, offset: int, end: int, *, exact: bool = True) -> QeCertification:
        """Read ``data[offset:end]``, which it has to fill if ``exact``. Raises WireError."""
        report = SgxReportBody.unpack_from(data, offset)
        at = offset + SGX_REPORT_BODY_SIZE
        signature = _slice(data, at, _SIGNATURE_SIZE, end, "qe_report_signature")
        at += _SIGNATURE_SIZE
        auth_size = int.from_bytes(_slice(data, at, 2, end, "qe_auth_data_size"), "little")
        auth = _slice(data, at + 2, auth_size, end, "qe_auth_data")
        return cls(report, signature, auth, _certification(data, at + 2 + auth_size, end, exact=exact))

    @property
    def size(self) -> int:
        """Bytes that it has in a quote."""
        auth = 2 + len(self.qe_auth_data)
        return SGX_REPORT_BODY_SIZE + _SIGNATURE_SIZE + auth + self.certification.size

    def to_bytes(self) -> bytes:
        """The bytes of the QE certification. Raises WireError if a field has the wrong length."""
        if len(self.qe_report_signature) != _SIGNATURE_SIZE:
            raise WireError("QE_CERTIFICATION", "qe_report_signature", SGX_REPORT_BODY_SIZE, "64 bytes belong here")
        auth_size = struct.pack("<H", len(self.qe_auth_data))
        tail = auth_size + self.qe_auth_data + self.certification.to_bytes()
        return self.qe_report.to_bytes() + self.qe_report_signature + tail


@dataclass(frozen=True, slots=True)
class QuoteSignature:
    """Signature data: raw ``r || s``, raw public key ``x || y``, and what certifies that key.

    ``certification`` is a QeCertification (version 3; type 6 of version 4 and 5), or CertificationData of any other
    outer type, which the format allows and verifiers refuse.
    """

    signature: bytes
    attestation_key: bytes
    certification: QeCertification | CertificationData
    #: What else the signature data holds. Nothing signs it, and verifiers ignore it, QVL too.
    unused: bytes = b""

    @classmethod
    def unpack_from(cls, data: bytes, offset: int, end: int, version: int) -> QuoteSignature:
        """Read ``data[offset:end]``. Raises WireError."""
        signature = _slice(data, offset, _SIGNATURE_SIZE, end, "signature")
        key = _slice(data, offset + _SIGNATURE_SIZE, _KEY_SIZE, end, "attestation_key")
        at = offset + _SIGNATURE_SIZE + _KEY_SIZE
        if version == 3:
            certification = QeCertification.unpack_from(data, at, end, exact=False)
            return cls(signature, key, certification, data[at + certification.size : end])
        outer = _certification(data, at, end, exact=False)
        unused = data[at + outer.size : end]
        if outer.type != CertificationType.QE_REPORT:
            return cls(signature, key, outer, unused)
        return cls(signature, key, QeCertification.unpack_from(data, at + 6, at + outer.size), unused)

    def to_bytes(self, version: int) -> bytes:
        """The signature data of a quote of ``version``. Raises WireError if a field has the wrong length."""
        if len(self.signature) != _SIGNATURE_SIZE or len(self.attestation_key) != _KEY_SIZE:
            raise WireError("QUOTE_SIGNATURE", "signature", 0, "signature and attestation key have 64 bytes each")
        inner = self.certification
        if isinstance(inner, QeCertification) and version != 3:
            inner = CertificationData(CertificationType.QE_REPORT, inner.to_bytes())
        return self.signature + self.attestation_key + inner.to_bytes() + self.unused


@dataclass(frozen=True, slots=True)
class Quote:
    """A quote. ``trailing`` are the bytes after the signature data, which nothing signs and verifiers ignore."""

    header: QuoteHeader
    body: TdReportBody | SgxReportBody
    signature: QuoteSignature
    trailing: bytes = b""

    @classmethod
    def from_bytes(cls, data: bytes) -> Quote:
        """Read a quote. Raises WireError, its offset counted from the quote's first byte."""
        data = bytes(data)
        if len(data) > MAX_QUOTE_SIZE:
            raise WireError("QUOTE", "size", 0, f"{len(data)} bytes, more than {MAX_QUOTE_SIZE}")
        header = QuoteHeader.from_bytes(data)
        kind, at = _body_type(data, header)
        body = (
            SgxReportBody.unpack_from(data, at) if kind is BodyType.SGX else TdReportBody.unpack_from(data, at, kind)
        )
        at += BODY_SIZES[kind]
        size = int.from_bytes(_slice(data, at, 4, len(data), "auth_data_size"), "little")
        end = at + 4 + size
        if end > len(data):
            raise WireError("QUOTE", "auth_data_size", at, f"{size}, but {len(data) - at - 4} bytes are left")
        return cls(header, body, QuoteSignature.unpack_from(data, at + 4, end, header.version), data[end:])

    @property
    def body_type(self) -> BodyType:
        """The body's type, also for version 3 and 4, which do not write it."""
        return self.body.body_type if isinstance(self.body, TdReportBody) else BodyType.SGX

    @property
    def signed_size(self) -> int:
        """How many bytes from the start its signature covers."""
        return HEADER_SIZE + (6 if self.header.version == 5 else 0) + BODY_SIZES[self.body_type]

    def signed_bytes(self) -> bytes:
        """What the quote's signature covers: header, body descriptor (version 5) and body."""
        return unsigned_quote(self.header, self.body)

    def to_bytes(self) -> bytes:
        """The whole quote. Raises WireError if a field has the wrong length."""
        signature = self.signature.to_bytes(self.header.version)
        return self.signed_bytes() + struct.pack("<I", len(signature)) + signature + self.trailing


def unsigned_quote(header: QuoteHeader, body: TdReportBody | SgxReportBody) -> bytes:
    """Header, body descriptor (version 5) and body: the bytes that a quoting enclave signs.

    Raises WireError if the header's version cannot carry the body.
    """
    kind = body.body_type if isinstance(body, TdReportBody) else BodyType.SGX
    if (kind is BodyType.SGX) != (header.tee_type == TeeType.SGX):
        raise WireError("QUOTE", "tee_type", 4, f"{header.tee_type:#x} does not go with body type {int(kind)}")
    if header.version == 5:
        return header.to_bytes() + struct.pack("<HI", kind, BODY_SIZES[kind]) + body.to_bytes()
    if kind > BodyType.TDX_1_0:
        raise WireError("QUOTE", "version", 0, f"{header.version} cannot carry body type {int(kind)}; 5 can")
    return header.to_bytes() + body.to_bytes()


def _body_type(data: bytes, header: QuoteHeader) -> tuple[BodyType, int]:
    """The body's type and where it starts."""
    if header.version != 5:
        return (BodyType.SGX if header.tee_type == TeeType.SGX else BodyType.TDX_1_0), HEADER_SIZE
    number, size = struct.unpack("<HI", _slice(data, HEADER_SIZE, 6, len(data), "body_type"))
    if number not in BodyType._value2member_map_:
        raise WireError("QUOTE", "body_type", HEADER_SIZE, f"{number} is not 1, 2, 3 or 4")
    kind = BodyType(number)
    if (kind is BodyType.SGX) != (header.tee_type == TeeType.SGX):
        raise WireError("QUOTE", "body_type", HEADER_SIZE, f"{number} does not go with TEE type {header.tee_type:#x}")
    if size != BODY_SIZES[kind]:
        raise WireError("QUOTE", "body_size", HEADER_SIZE + 2, f"{size} where {BODY_SIZES[kind]} belongs")
    return kind, HEADER_SIZE + 6


def _certification(data: bytes, at: int, end: int, *, exact: bool) -> CertificationData:
    """Type, size and data at ``at``, which have to end at ``end`` if ``exact``, else not after it."""
    kind, size = struct.unpack("<HI", _slice(data, at, 6, end, "certification_data"))
    left = end - at - 6
    if size > left or (exact and size != left):
        raise WireError("CERTIFICATION_DATA", "size", at + 2, f"{size}, but {left} bytes are left")
    return CertificationData(kind, data[at + 6 : at + 6 + size])


def _slice(data: bytes, at: int, size: int, end: int, field: str) -> bytes:
    if at + size > end:
        raise WireError("QUOTE", field, at, f"needs {size} bytes, {max(0, end - at)} are left")
    return data[at : at + size]

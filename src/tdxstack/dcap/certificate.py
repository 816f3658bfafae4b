"""X.509 certificates and CRLs as DCAP uses them: parsed once, with what verification asks for at hand.

Intel SGX PCK Certificate and CRL Profile Specification, section 1.3.
"""

from __future__ import annotations

import binascii
import re
import warnings
from dataclasses import dataclass
from functools import cached_property, lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID

from tdxstack.wire.der import INTEGER, tlv
from tdxstack.wire.sgx_extension import SGX_EXTENSION_OID, ExtensionFault, SgxExtension

#: A CRL or chain that is longer is not read.
MAX_DER_SIZE = 1 << 20
#: More certificates than this in one chain are not read; DCAP chains have two or three.
MAX_CHAIN_LENGTH = 8

_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
_PEM_CRL = re.compile(r"-----BEGIN X509 CRL-----(.*?)-----END X509 CRL-----", re.DOTALL)
# Not for the user's eyes: a certificate in a quote can be anybody's, and this one is refused by its signature anyway.
warnings.filterwarnings("ignore", message="Parsed a serial number which wasn't positive")
_ECDSA_SHA256 = ec.ECDSA(hashes.SHA256())
_CURVE = ec.SECP256R1()
# Common name, country, organisation, locality, state or province: 2.5.4.3, .6, .10, .7, .8.
_NAME_OIDS = tuple(bytes([0x55, 0x04, arc]) for arc in (3, 6, 10, 7, 8))
_BMP_STRING, _EXPLICIT_0 = 0x1E, 0xA0
_SGX_EXTENSION = x509.ObjectIdentifier(SGX_EXTENSION_OID)
_REQUIRED_EXTENSIONS = frozenset(
    {
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        ExtensionOID.CRL_DISTRIBUTION_POINTS,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.BASIC_CONSTRAINTS,
    }
)


#: What ``cryptography`` raises for what it cannot parse; there is no common base.
_PARSE_FAULTS = (
    ValueError,
    TypeError,
    IndexError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    x509.AttributeNotFound,
)


class CertificateFault(ValueError):
    """Not a certificate or CRL that can be read; says why."""


class MissingExtensions(CertificateFault):
    """A certificate that lacks extensions which the profile demands."""


def verify_p256(key: ec.EllipticCurvePublicKey | None, signature: bytes, data: bytes) -> bool:
    """Whether the DER-coded ECDSA signature over SHA-256 of ``data`` is by the P-256 key (None: it is not)."""
    if key is None:
        return False
    try:
        key.verify(signature, data, _ECDSA_SHA256)
    except InvalidSignature:
        return False
    return True


def verify_raw_p256(key: ec.EllipticCurvePublicKey | None, signature: bytes, data: bytes) -> bool:
    """The same for a raw signature, 64 bytes ``r || s``, big-endian."""
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    return verify_p256(key, utils.encode_dss_signature(r, s), data)


def p256_key(raw: bytes) -> ec.EllipticCurvePublicKey | None:
    """The public key ``x || y`` (64 bytes, big-endian), or None if that is no point of the curve."""
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, b"\x04" + raw)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class DistinguishedName:
    """A name: its DER, and the attributes by which QVL compares (CN, C, O, L, ST)."""

    der: bytes
    attributes: tuple[str, ...]

    @property
    def common_name(self) -> str:
        """CN, or an empty string."""
        return self.attributes[0]

    def same_as(self, other: DistinguishedName) -> bool:
        """QVL's equality: the five attributes, whatever their order and string types."""
        return self.attributes == other.attributes


@lru_cache(maxsize=256)
def _name(der: bytes) -> DistinguishedName:
    """Read a Name that is known to be well-formed: SEQUENCE of SET of SEQUENCE {type, value}."""
    found: dict[bytes, str] = {}
    _, at, end = tlv(der, 0)
    while at < end:
        _, inner, at = tlv(der, at)
        while inner < at:
            _, oid_at, inner = tlv(der, inner)
            _, oid_start, oid_end = tlv(der, oid_at)
            tag, start, stop = tlv(der, oid_end)
            text = der[start:stop].decode("utf-16-be" if tag == _BMP_STRING else "utf-8", "replace")
            found.setdefault(der[oid_start:oid_end], text)
    return DistinguishedName(der, tuple(found.get(oid, "") for oid in _NAME_OIDS))


class Certificate:
    """A certificate. Raises CertificateFault (MissingExtensions) on construction; times are Unix seconds."""

    def __init__(self, der: bytes) -> None:
        if len(der) > MAX_DER_SIZE:
            raise CertificateFault(f"{len(der)} bytes, more than {MAX_DER_SIZE}")
        try:
            parsed = x509.load_der_x509_certificate(der)
            self.serial = parsed.serial_number
            self.not_before = int(parsed.not_valid_before_utc.timestamp())
            self.not_after = int(parsed.not_valid_after_utc.timestamp())
            extensions = {extension.oid: extension.value for extension in parsed.extensions}
            self._slice(der)
        except _PARSE_FAULTS as error:
            raise CertificateFault(str(error) or type(error).__name__) from None
        if not extensions.keys() >= _REQUIRED_EXTENSIONS:
            missing = ", ".join(sorted(oid.dotted_string for oid in _REQUIRED_EXTENSIONS - extensions.keys()))
            raise MissingExtensions(f"{self.subject.common_name}: no extension {missing}")
        self.der = der
        self._sgx = extensions.get(_SGX_EXTENSION)
        self._parsed = parsed
        self._signed_by: bytes | None = None

    def _slice(self, der: bytes) -> None:
        """What is signed, the signature and the names, as they stand in the DER. (RFC 5280, section 4.1)"""
        _, start, _ = tlv(der, 0)
        _, at, end = tlv(der, start)
        self.tbs = der[start:end]
        if der[at] == _EXPLICIT_0:
            at = tlv(der, at)[2]
        algorithm = tlv(der, at)[2]  # after the serial number
        issuer = tlv(der, algorithm)[2]
        issuer_end = tlv(der, issuer)[2]
        subject = tlv(der, issuer_end)[2]  # after the validity
        self.issuer = _name(der[issuer:issuer_end])
        self.subject = _name(der[subject : tlv(der, subject)[2]])
        self.signature = _signature(der, end, der[algorithm:issuer])

    @cached_property
    def key(self) -> ec.EllipticCurvePublicKey | None:
        """The P-256 key, or None if it is another kind of key."""
        try:
            key = self._parsed.public_key()
        except _PARSE_FAULTS:
            return None
        return key if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1) else None

    @cached_property
    def sgx(self) -> SgxExtension:
        """The SGX extension. Raises MissingExtensions if it or a part of it is absent, CertificateFault if one has
        the wrong form."""
        if not isinstance(self._sgx, x509.UnrecognizedExtension):
            raise MissingExtensions(f"{self.subject.common_name}: no SGX extension")
        try:
            return SgxExtension.from_der(self._sgx.value)
        except ExtensionFault as fault:
            kind = MissingExtensions if fault.missing else CertificateFault
            raise kind(f"{self.subject.common_name}: SGX extension: {fault}") from None

    @property
    def self_issued(self) -> bool:
        """Whether issuer and subject are the same."""
        return self.subject.same_as(self.issuer)

    def signed_by(self, issuer: Certificate) -> bool:
        """Whether the issuer's name and key are those that signed this certificate; a yes is remembered."""
        if self._signed_by != issuer.der:
            if not (self.issuer.same_as(issuer.subject) and verify_p256(issuer.key, self.signature, self.tbs)):
                return False
            self._signed_by = issuer.der
        return True


def _signature(der: bytes, at: int, algorithm: bytes) -> bytes:
    """The bits of the signature, which stands after the signature algorithm at ``at``.

    That algorithm is not signed: where it is not the signed one, there is no signature (RFC 5280, section 4.1.1.2).
    """
    after = tlv(der, at)[2]
    _, start, end = tlv(der, after)
    return der[start + 1 : end] if der[at:after] == algorithm and der[start] == 0 else b""


def split_pem(text: bytes) -> list[bytes]:
    """The DER of every certificate in ``text``, whatever lies between them. Raises CertificateFault.

    As QVL and OpenSSL read it: from the first beginning to the first NUL, nothing if an end stands before it, each
    certificate's base64 on lines of its own of any length, none of them empty.
    """
    found: list[bytes] = []
    at, end = text.find(_BEGIN), text.find(_END)
    if end < at:
        return found
    text, at = text[max(at, 0) :].partition(b"\0")[0], min(at, 0)
    while at >= 0:
        start = at + len(_BEGIN)
        end = text.find(_END, start)
        if end < 0:
            break
        if len(found) == MAX_CHAIN_LENGTH:
            raise CertificateFault(f"more than {MAX_CHAIN_LENGTH} certificates")
        found.append(_unarmoured(text[start:end]))
        at = text.find(_BEGIN, end)
    return found


def _unarmoured(lines: bytes) -> bytes:
    """The DER of what stands between the PEM lines; the first and the last byte are the lines' ends."""
    lines = lines.replace(b"\r", b"").lstrip(b" \t")
    if not lines.startswith(b"\n") or not lines.endswith(b"\n") or b"\n\n" in lines:
        raise CertificateFault("PEM: not base64 on lines of its own")
    try:
        return binascii.a2b_base64(lines.translate(None, b"\n \t"), strict_mode=True)
    except binascii.Error as error:
        raise CertificateFault(f"PEM: {error}") from None


@lru_cache(maxsize=256)
def certificate_of(der: bytes) -> Certificate:
    """The certificate of this DER; CA certificates are seen again and again. Raises as :class:`Certificate` does."""
    return Certificate(der)


class RevocationList:
    """A CRL. Raises CertificateFault on construction; times are Unix seconds."""

    def __init__(self, der: bytes) -> None:
        if len(der) > MAX_DER_SIZE:
            raise CertificateFault(f"{len(der)} bytes, more than {MAX_DER_SIZE}")
        try:
            parsed = x509.load_der_x509_crl(der)
            self.this_update = int(parsed.last_update_utc.timestamp())
            next_update = parsed.next_update_utc
            extensions = {extension.oid: extension.value for extension in parsed.extensions}
            self._slice(der)
        except _PARSE_FAULTS as error:
            raise CertificateFault(str(error) or type(error).__name__) from None
        if next_update is None:
            raise CertificateFault("no nextUpdate")
        if ExtensionOID.CRL_NUMBER not in extensions:  # QVL: not a CRL that can be read
            raise CertificateFault("no CRL number")
        self.next_update = int(next_update.timestamp())
        self.has_authority_key = ExtensionOID.AUTHORITY_KEY_IDENTIFIER in extensions
        number = extensions[ExtensionOID.CRL_NUMBER]
        self.number = number.crl_number if isinstance(number, x509.CRLNumber) else None
        self.der = der
        self._parsed = parsed
        self._signed_by: bytes | None = None

    def _slice(self, der: bytes) -> None:
        """What is signed, the signature and the issuer, as they stand in the DER. (RFC 5280, section 5.1)"""
        _, start, _ = tlv(der, 0)
        _, at, end = tlv(der, start)
        self.tbs = der[start:end]
        if der[at] == INTEGER:
            at = tlv(der, at)[2]
        issuer = tlv(der, at)[2]  # after the signature algorithm
        self.issuer = _name(der[issuer : tlv(der, issuer)[2]])
        self.signature = _signature(der, end, der[at:issuer])

    def signed_by(self, issuer: Certificate) -> bool:
        """Whether the issuer's key signed this list; a yes is remembered, since two chains ask."""
        if self._signed_by != issuer.der:
            if not verify_p256(issuer.key, self.signature, self.tbs):
                return False
            self._signed_by = issuer.der
        return True

    @classmethod
    def from_text(cls, text: str) -> RevocationList:
        """Read PEM or hexadecimal DER. Raises CertificateFault."""
        if len(text) > 2 * MAX_DER_SIZE:
            raise CertificateFault(f"{len(text)} characters, more than {2 * MAX_DER_SIZE}")
        try:
            if "-" in text and (match := _PEM_CRL.search(text)) is not None:
                return cls(binascii.a2b_base64(match[1]))
            return cls(bytes.fromhex(text))
        except ValueError as error:
            raise CertificateFault(str(error)) from None

    def revokes(self, certificate: Certificate) -> bool:
        """Whether the certificate's serial number is in the list. Like QVL, without regard to its sign."""
        serial = abs(certificate.serial)
        # What is listed stands in the DER, so most serial numbers need no walk through the entries.
        if serial.to_bytes((serial.bit_length() + 7) // 8, "big") not in self.tbs:
            return False
        return self._parsed.get_revoked_certificate_by_serial_number(serial) is not None

    def current(self, now: int) -> bool:
        """Whether thisUpdate <= now <= nextUpdate."""
        return self.this_update <= now <= self.next_update

    @property
    def revoked_count(self) -> int:
        """How many certificates are revoked."""
        return len(self._parsed)


#: Lists of more characters than this are not kept; Intel's have some thousand.
_LONGEST_KEPT = 64 << 10


@lru_cache(maxsize=16)
def _short_list(text: str) -> RevocationList:
    return RevocationList.from_text(text)


def revocation_list_of(text: str) -> RevocationList:
    """The CRL of this PEM or hexadecimal DER, which stays the same for weeks. Raises CertificateFault.

    Only what the list itself says is kept, and which issuer's signature was found good; expiry is judged anew.
    """
    return _short_list(text) if len(text) <= _LONGEST_KEPT else RevocationList.from_text(text)


def forget_certificates() -> None:
    """Forget every certificate and CRL seen so far."""
    certificate_of.cache_clear()
    _short_list.cache_clear()


def to_pem(der: bytes) -> str:
    """PEM of a certificate's DER."""
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode()

"""X.509 certificates and CRLs as DCAP uses them: parsed once, with what verification asks for at hand.

Intel SGX PCK Certificate and CRL Profile Specification, section 1.3.
"""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass
from functools import cached_property

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID, NameOID

from tdxstack.wire.sgx_extension import SGX_EXTENSION_OID, ExtensionFault, SgxExtension

#: A CRL or chain that is longer is not read.
MAX_DER_SIZE = 1 << 20
#: More certificates than this in one chain are not read; DCAP chains have two or three.
MAX_CHAIN_LENGTH = 8

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)
_PEM_CRL = re.compile(r"-----BEGIN X509 CRL-----(.*?)-----END X509 CRL-----", re.DOTALL)
_ECDSA_SHA256 = ec.ECDSA(hashes.SHA256())
_CURVE = ec.SECP256R1()
_NAME_OIDS = (
    NameOID.COMMON_NAME,
    NameOID.COUNTRY_NAME,
    NameOID.ORGANIZATION_NAME,
    NameOID.LOCALITY_NAME,
    NameOID.STATE_OR_PROVINCE_NAME,
)
_REQUIRED_EXTENSIONS = frozenset(
    {
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        ExtensionOID.CRL_DISTRIBUTION_POINTS,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.BASIC_CONSTRAINTS,
    }
)
_CRL_EXTENSIONS = frozenset({ExtensionOID.CRL_NUMBER, ExtensionOID.AUTHORITY_KEY_IDENTIFIER})


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

    @classmethod
    def of(cls, name: x509.Name) -> DistinguishedName:
        """Take from a parsed name."""
        by_oid = {attribute.oid: str(attribute.value) for attribute in reversed(list(name))}
        return cls(name.public_bytes(), tuple(by_oid.get(oid, "") for oid in _NAME_OIDS))

    @property
    def common_name(self) -> str:
        """CN, or an empty string."""
        return self.attributes[0]

    def same_as(self, other: DistinguishedName) -> bool:
        """QVL's equality: the five attributes, whatever their order and string types."""
        return self.attributes == other.attributes


class Certificate:
    """A certificate. Raises CertificateFault (MissingExtensions) on construction; times are Unix seconds."""

    def __init__(self, der: bytes) -> None:
        if len(der) > MAX_DER_SIZE:
            raise CertificateFault(f"{len(der)} bytes, more than {MAX_DER_SIZE}")
        try:
            parsed = x509.load_der_x509_certificate(der)
            self.subject = DistinguishedName.of(parsed.subject)
            self.issuer = DistinguishedName.of(parsed.issuer)
            self.serial = parsed.serial_number
            self.not_before = int(parsed.not_valid_before_utc.timestamp())
            self.not_after = int(parsed.not_valid_after_utc.timestamp())
            self._extensions = {extension.oid.dotted_string: extension.value for extension in parsed.extensions}
            self.signature = parsed.signature
            self.tbs = parsed.tbs_certificate_bytes
        except (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
            raise CertificateFault(str(error) or type(error).__name__) from None
        missing = [oid for oid in _REQUIRED_EXTENSIONS if oid.dotted_string not in self._extensions]
        if missing:
            raise MissingExtensions(f"{self.subject.common_name}: no extension {', '.join(o._name for o in missing)}")
        self.der = der
        self._parsed = parsed

    @cached_property
    def key(self) -> ec.EllipticCurvePublicKey | None:
        """The P-256 key, or None if it is another kind of key."""
        try:
            key = self._parsed.public_key()
        except (ValueError, UnsupportedAlgorithm):
            return None
        return key if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1) else None

    @cached_property
    def sgx(self) -> SgxExtension:
        """The SGX extension. Raises MissingExtensions if it is absent or wrong."""
        value = self._extensions.get(SGX_EXTENSION_OID)
        if not isinstance(value, x509.UnrecognizedExtension):
            raise MissingExtensions(f"{self.subject.common_name}: no SGX extension")
        try:
            return SgxExtension.from_der(value.value)
        except ExtensionFault as fault:
            raise MissingExtensions(f"{self.subject.common_name}: SGX extension: {fault}") from None

    @property
    def self_issued(self) -> bool:
        """Whether issuer and subject are the same."""
        return self.subject.same_as(self.issuer)

    def signed_by(self, issuer: Certificate) -> bool:
        """Whether the issuer's name and key are those that signed this certificate."""
        return self.issuer.same_as(issuer.subject) and verify_p256(issuer.key, self.signature, self.tbs)


def split_pem(text: bytes) -> list[bytes]:
    """The DER of every certificate in ``text``, whatever lies between them. Raises CertificateFault."""
    bodies = _PEM.findall(text[:MAX_DER_SIZE])
    if len(bodies) > MAX_CHAIN_LENGTH:
        raise CertificateFault(f"{len(bodies)} certificates, more than {MAX_CHAIN_LENGTH}")
    try:
        return [binascii.a2b_base64(body) for body in bodies]
    except binascii.Error as error:
        raise CertificateFault(f"PEM: {error}") from None


class RevocationList:
    """A CRL. Raises CertificateFault on construction; times are Unix seconds."""

    def __init__(self, der: bytes) -> None:
        if len(der) > MAX_DER_SIZE:
            raise CertificateFault(f"{len(der)} bytes, more than {MAX_DER_SIZE}")
        try:
            parsed = x509.load_der_x509_crl(der)
            self.issuer = DistinguishedName.of(parsed.issuer)
            self.this_update = int(parsed.last_update_utc.timestamp())
            next_update = parsed.next_update_utc
            extensions = {extension.oid: extension.value for extension in parsed.extensions}
            self.signature = parsed.signature
            self.tbs = parsed.tbs_certlist_bytes
        except (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
            raise CertificateFault(str(error) or type(error).__name__) from None
        if next_update is None:
            raise CertificateFault("no nextUpdate")
        self.next_update = int(next_update.timestamp())
        self.has_required_extensions = extensions.keys() >= _CRL_EXTENSIONS
        number = extensions.get(ExtensionOID.CRL_NUMBER)
        self.number = number.crl_number if isinstance(number, x509.CRLNumber) else None
        self.der = der
        self._parsed = parsed

    @classmethod
    def from_text(cls, text: str) -> RevocationList:
        """Read PEM or hexadecimal DER. Raises CertificateFault."""
        if len(text) > 2 * MAX_DER_SIZE:
            raise CertificateFault(f"{len(text)} characters, more than {2 * MAX_DER_SIZE}")
        try:
            if (match := _PEM_CRL.search(text)) is not None:
                return cls(binascii.a2b_base64(match[1]))
            return cls(bytes.fromhex(text))
        except ValueError as error:
            raise CertificateFault(str(error)) from None

    def revokes(self, certificate: Certificate) -> bool:
        """Whether the certificate's serial number is in the list."""
        return self._parsed.get_revoked_certificate_by_serial_number(certificate.serial) is not None

    def current(self, now: int) -> bool:
        """Whether thisUpdate <= now <= nextUpdate."""
        return self.this_update <= now <= self.next_update

    @property
    def revoked_count(self) -> int:
        """How many certificates are revoked."""
        return len(self._parsed)


def to_pem(der: bytes) -> str:
    """PEM of a certificate's DER."""
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode()

"""Certificates, keys and CRLs of a software platform: Intel's shapes and roles, with a root of their own.

Roles are told by common names, as Intel's Quote Verification Library does: the root's contains ``SGX Root CA``, the
intermediate's ``CA``, the leaf's ``SGX PCK Certificate``, the collateral signer's ``SGX TCB Signing``. Every name
carries the word ``software``, and the organisation says that nothing of it is Intel's.

Source of the shapes: Intel SGX PCK Certificate and Certificate Revocation List Profile Specification.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID, ObjectIdentifier

from tdxstack.platform.software.sgx_extension import SGX_EXTENSION_OID, SgxExtension

ROOT_NAME = "software SGX Root CA"
PLATFORM_CA_NAME = "software SGX PCK Platform CA"
PCK_NAME = "software SGX PCK Certificate"
TCB_SIGNING_NAME = "software SGX TCB Signing"
ORGANISATION = "tdxstack software TDX platform (not Intel)"

#: Where CRLs would be, were there a web server; the name says that there is none (RFC 2606).
CRL_URL = "https://software-tdx.invalid/sgx/certification/v4"

ROOT_YEARS, CA_YEARS, LEAF_YEARS = 25, 15, 7
#: How long before its making a certificate is valid already: clocks of guests may be late.
CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its private key (ECDSA P-256)."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> str:
        """The certificate as PEM."""
        return certificate_pem(self.certificate)


@dataclass(frozen=True, slots=True)
class Pki:
    """All identities of one platform."""

    root: Identity
    platform_ca: Identity
    pck: Identity
    tcb_signing: Identity

    @property
    def pck_chain(self) -> str:
        """PEM: PCK certificate, platform CA, root; what a quote carries."""
        return self.pck.pem + self.platform_ca.pem + self.root.pem

    @property
    def pck_crl_chain(self) -> str:
        """PEM: platform CA, root; the issuers of the PCK CRL."""
        return self.platform_ca.pem + self.root.pem

    @property
    def tcb_signing_chain(self) -> str:
        """PEM: TCB signing certificate, root; the issuers of TCB info and QE identity."""
        return self.tcb_signing.pem + self.root.pem

    @property
    def root_der(self) -> bytes:
        return self.root.certificate.public_bytes(serialization.Encoding.DER)


@dataclass(frozen=True, slots=True)
class _Profile:
    """What differs between the four kinds of certificate."""

    common_name: str
    years: int
    crl: str
    path_length: int | None = None
    is_ca: bool = False


_ROOT = _Profile(ROOT_NAME, ROOT_YEARS, "rootcacrl", path_length=1, is_ca=True)
_PLATFORM_CA = _Profile(PLATFORM_CA_NAME, CA_YEARS, "rootcacrl", path_length=0, is_ca=True)
_TCB_SIGNING = _Profile(TCB_SIGNING_NAME, LEAF_YEARS, "rootcacrl")
_PCK = _Profile(PCK_NAME, LEAF_YEARS, "pckcrl?ca=platform&encoding=der")


def make_pki(platform: str, extension: SgxExtension, now: datetime) -> Pki:
    """New keys and certificates for a platform.

    Args:
        platform: the platform's name; it stands in every subject as the organisational unit, so that two platforms'
            certificates are told apart by eye.
        extension: what the PCK certificate says.
        now: the time of making, with a time zone.
    """
    root = _issue(_ROOT, platform, None, now)
    platform_ca = _issue(_PLATFORM_CA, platform, root, now)
    pck = _issue(_PCK, platform, platform_ca, now, extension=extension)
    return Pki(root, platform_ca, pck, _issue(_TCB_SIGNING, platform, root, now))


def reissue_pck(pki: Pki, platform: str, extension: SgxExtension, now: datetime) -> Identity:
    """A PCK certificate for another TCB of the same platform, with a key of its own: PCK keys differ by TCB."""
    return _issue(_PCK, platform, pki.platform_ca, now, extension=extension)


def make_crl(issuer: Identity, number: int, now: datetime, lifetime: timedelta, revoked: Sequence[int] = ()) -> bytes:
    """A CRL as DER.

    Args:
        number: CRLNumber; grows with each issue.
        lifetime: from thisUpdate to nextUpdate.
        revoked: serial numbers.
    """
    start = _whole_seconds(now)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(start)
        .next_update(start + lifetime)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(_authority(issuer.certificate), critical=False)
    )
    for serial in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(start)
        entry = entry.add_extension(x509.CRLReason(x509.ReasonFlags.key_compromise), critical=False)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(issuer.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def certificate_pem(certificate: x509.Certificate) -> str:
    """PEM text with a final newline."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS #8 PEM without a passphrase; the file's mode protects it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load_identity(certificate: bytes, key: bytes) -> Identity:
    """Read what :func:`certificate_pem` and :func:`key_pem` wrote.

    Raises:
        ValueError: not such files, or the key is not the certificate's.
    """
    loaded = x509.load_pem_x509_certificate(certificate)
    private = load_key(key)
    if private.public_key() != loaded.public_key():
        raise ValueError("the key is not the certificate's")
    return Identity(loaded, private)


def load_key(key: bytes) -> ec.EllipticCurvePrivateKey:
    """Read an ECDSA private key from PEM.

    Raises:
        ValueError: not such a key.
    """
    private = serialization.load_pem_private_key(key, None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise ValueError("not an elliptic-curve key")
    return private


def _whole_seconds(now: datetime) -> datetime:
    return now.astimezone(UTC).replace(microsecond=0)


def _name(profile: _Profile, platform: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, profile.common_name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, f"software platform {platform}"),
        ]
    )


def _authority(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _usage(is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=not is_ca,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )


def _issue(
    profile: _Profile,
    platform: str,
    issuer: Identity | None,
    now: datetime,
    *,
    extension: SgxExtension | None = None,
) -> Identity:
    """Make a key and certify it by ``issuer``, or by itself. Extensions stand in Intel's order."""
    key = ec.generate_private_key(ec.SECP256R1())
    start = _whole_seconds(now) - CLOCK_SKEW
    subject = _name(profile, platform)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    if issuer is None:
        authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    else:
        authority = _authority(issuer.certificate)
    point = x509.DistributionPoint([x509.UniformResourceIdentifier(f"{CRL_URL}/{profile.crl}")], None, None, None)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=365 * profile.years))
        .add_extension(authority, critical=False)
        .add_extension(x509.CRLDistributionPoints([point]), critical=False)
        .add_extension(identifier, critical=False)
        .add_extension(_usage(profile.is_ca), critical=True)
        .add_extension(x509.BasicConstraints(profile.is_ca, profile.path_length), critical=True)
    )
    if extension is not None:
        value = x509.UnrecognizedExtension(ObjectIdentifier(SGX_EXTENSION_OID), extension.to_bytes())
        builder = builder.add_extension(value, critical=False)
    return Identity(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)

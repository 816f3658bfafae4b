"""Secure boot keys of one's own: PK, KEK and db, each a self-signed certificate and its private key."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from tdxstack.errors import UsageError
from tdxstack.system import files

ROLES = ("PK", "KEK", "db")
KEY_BITS = 2048
VALID_DAYS = 3650


@dataclass(frozen=True, slots=True)
class KeyFiles:
    """Where one role's certificate (PEM) and private key (PEM, mode 0600) are."""

    role: str
    certificate: Path
    key: Path


def key_files(folder: Path) -> tuple[KeyFiles, ...]:
    """The files of PK, KEK and db in ``folder``, none of which is there yet.

    Raises:
        UsageError: one is.
    """
    found = tuple(KeyFiles(role, folder / f"{role}.pem", folder / f"{role}.key") for role in ROLES)
    for one in found:
        if one.key.exists() or one.certificate.exists():
            raise UsageError(f"{one.key.parent} has a {one.role} already", hint="choose another directory")
    return found


def new_keys(folder: Path, owner: str, *, now: datetime.datetime) -> tuple[KeyFiles, ...]:
    """Make PK, KEK and db in ``folder``.

    UEFI firmware knows RSA with 2048 bits and SHA-256 everywhere, which is why nothing longer is made.

    Raises:
        UsageError: a key is there already.
        SystemFault: a file cannot be written.
    """
    made = key_files(folder)
    files.private_directory(folder)
    for one in made:
        _make(one, f"{owner} {one.role}", now)
    return made


def _make(one: KeyFiles, common_name: str, now: datetime.datetime) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    files.write_atomic(one.key, private, mode=0o600)
    files.write_atomic(one.certificate, certificate.public_bytes(serialization.Encoding.PEM))


def read_certificate(path: Path) -> bytes:
    """A certificate as DER, from a PEM or DER file.

    Raises:
        UsageError: the file cannot be read or is no certificate.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    try:
        load = x509.load_pem_x509_certificate if b"-----BEGIN" in data else x509.load_der_x509_certificate
        return load(data).public_bytes(serialization.Encoding.DER)
    except ValueError:
        raise UsageError(f"{path}: neither a PEM nor a DER certificate") from None


def subject(der: bytes) -> str:
    """The subject of a certificate, for people; its size if it is none."""
    try:
        return x509.load_der_x509_certificate(der).subject.rfc4514_string()
    except ValueError:
        return f"{len(der)} bytes"

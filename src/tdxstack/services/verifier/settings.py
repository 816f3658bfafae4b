"""Settings of the verifier, and the service made from them."""

from __future__ import annotations

import dataclasses
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from starlette.applications import Starlette

from tdxstack.dcap import ear
from tdxstack.dcap.policy import Policy
from tdxstack.errors import StateError, UsageError
from tdxstack.pcs.cache import Cache
from tdxstack.pcs.client import INTEL_PCS, PcsClient
from tdxstack.pcs.source import EvaluationSet, Source
from tdxstack.pcs.transport import TransportOptions
from tdxstack.services.listen import Address
from tdxstack.services.pccs.software import PREFIX, SoftwareSource
from tdxstack.services.settings_file import read_settings, setting, write_settings
from tdxstack.services.tls import make_tls
from tdxstack.services.verifier.app import create_app
from tdxstack.services.verifier.attestation import Attestation, Basis, Signer
from tdxstack.services.verifier.evidence import DEFAULT_POLICY, POLICY_NAME
from tdxstack.services.verifier.nonces import Nonces, UsedNonces
from tdxstack.services.verifier.rate import RateLimit
from tdxstack.system import files

SETTINGS_FILE = "verifier.toml"


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one verifier. Paths are taken from the file's own directory."""

    pccs: str = setting(
        INTEL_PCS,
        "URL of the PCS or PCCS that collateral comes from; platform:NAME for a software platform of this machine",
    )
    pccs_ca_file: str = setting("", "PEM file of the CAs that sign its TLS certificate; empty: the system's")
    evaluation: str = setting("standard", "evaluation set: standard, early or a number")
    trust_roots: list[str] = field(
        default_factory=lambda: ["intel"], metadata={"help": "intel, files of root certificates, or platform:NAME"}
    )
    policy: str = setting("", "appraisal policy (TOML or JSON); empty: the strict default")
    policies: list[str] = field(
        default_factory=list, metadata={"help": "further policies that a request may ask for, each as NAME=FILE"}
    )
    token_key: str = setting("token.key", "PEM file of the P-384 key that signs tokens; replicas share it")
    other_token_keys: list[str] = field(
        default_factory=list,
        metadata={"help": "PEM files of the keys before and after token_key while it is changed: published with it"},
    )
    token_seconds: int = setting(300, "life of a token")
    nonce_seconds: int = setting(120, "life of a challenge")
    database: str = setting("sqlite:///verifier.db", "where used challenges are kept; replicas share it")
    host: str = setting("127.0.0.1", "address to listen on")
    port: int = setting(8082, "TCP port to listen on; 0: any that is free")
    tls_certificate: str = setting("", "PEM file of the TLS certificate and its chain; empty: HTTP, on loopback only")
    tls_key: str = setting("", "PEM file of its key")
    requests_per_second: float = setting(20.0, "how often one address may ask in the long run")
    burst: int = setting(100, "how often one address may ask at once")

    def __post_init__(self) -> None:
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise UsageError("one of tls_certificate and tls_key is set, the other is not")
        if not self.tls_certificate and self.host not in ("127.0.0.1", "::1", "localhost"):
            raise UsageError(f"plain HTTP on {self.host}", hint="set tls_certificate and tls_key")
        if not 0 <= self.port <= 65535 or self.burst < 1 or not self.requests_per_second > 0:
            raise UsageError("port, burst or requests_per_second is out of bounds")
        if not 1 <= self.nonce_seconds <= 3600 or not 1 <= self.token_seconds <= 86400:
            raise UsageError("nonce_seconds or token_seconds is out of bounds")
        EvaluationSet(self.evaluation)

    @classmethod
    def load(cls, path: Path) -> Settings:
        """Read a file. Raises UsageError."""
        settings = read_settings(cls, path)
        folder = path.parent.absolute()
        names = ("pccs_ca_file", "policy", "token_key", "tls_certificate", "tls_key")
        changed: dict[str, Any] = {name: str(folder / value) for name in names if (value := getattr(settings, name))}
        changed["trust_roots"] = [
            root if root == "intel" or root.startswith(PREFIX) else str(folder / root)
            for root in settings.trust_roots
        ]
        changed["other_token_keys"] = [str(folder / name) for name in settings.other_token_keys]
        changed["policies"] = [_absolute_policy(entry, folder) for entry in settings.policies]
        if settings.database.startswith("sqlite:///"):
            changed["database"] = "sqlite:///" + str(folder / settings.database.removeprefix("sqlite:///"))
        return dataclasses.replace(settings, **changed)

    @property
    def address(self) -> Address:
        """Where to listen."""
        return Address(self.host, self.port, self.tls_certificate, self.tls_key)


def _absolute_policy(entry: str, folder: Path) -> str:
    name, equals, file = entry.partition("=")
    if not equals or not file or not POLICY_NAME.fullmatch(name) or name == DEFAULT_POLICY:
        raise UsageError(f"policies: {entry!r}", hint='NAME=FILE, and no NAME "default": that is policy = "FILE"')
    return f"{name}={folder / file}"


@dataclass(frozen=True, slots=True)
class Service:
    """An application and what it holds open."""

    app: Starlette
    attestation: Attestation
    used: UsedNonces
    source: Source

    def close(self) -> None:
        """Close the store and upstream's connections."""
        self.source.close()
        self.used.close()


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


def open_service(
    settings: Settings, cache: Cache, *, source: Source | None = None, clock: Callable[[], float] = time.time
) -> Service:
    """Put a verifier together.

    Args:
        source: where collateral comes from instead of the settings'.

    Raises:
        UsageError, SystemFault
    """
    key = ear.load_key(_read(settings.token_key))
    basis = Basis(_policies(settings), _roots(settings), EvaluationSet(settings.evaluation))
    if source is None:
        source = _source(settings)
    others = tuple(ear.load_key(_read(file)) for file in settings.other_token_keys)
    used = UsedNonces(settings.database)
    booted = clock() - time.clock_gettime(time.CLOCK_BOOTTIME)
    other_nonces = [_nonce_key(other) for other in others]
    nonces = Nonces(_nonce_key(key), settings.nonce_seconds, used, clock, booted=booted, others=other_nonces)
    signer = Signer(key, settings.token_seconds, others)
    attestation = Attestation(source, cache, nonces, basis, signer, clock=clock)
    limit = RateLimit(settings.requests_per_second, settings.burst)
    return Service(create_app(attestation, used, limit), attestation, used, source)


def _nonce_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The key of challenges, which all replicas with this token key derive."""
    scalar = key.private_numbers().private_value.to_bytes(48, "big")
    return hmac.digest(scalar, b"tdxstack verifier nonces", "sha256")


def _policies(settings: Settings) -> dict[str, Policy]:
    files = {DEFAULT_POLICY: settings.policy, **dict(entry.split("=", 1) for entry in settings.policies)}
    return {
        name: Policy.from_text(_read(file).decode("utf-8-sig", "replace")) if file else Policy()
        for name, file in files.items()
    }


def _roots(settings: Settings) -> list[str | bytes]:
    found: list[str | bytes] = []
    for root in settings.trust_roots:
        if root.startswith(PREFIX):
            found.append(SoftwareSource.open(root.removeprefix(PREFIX)).trust_root())
        else:
            found.append(root if root == "intel" else _read(root))
    return found


def _source(settings: Settings) -> Source:
    if settings.pccs.startswith(PREFIX):
        return SoftwareSource.open(settings.pccs.removeprefix(PREFIX))
    ca = Path(settings.pccs_ca_file) if settings.pccs_ca_file else None
    return PcsClient(settings.pccs, options=TransportOptions(ca_file=ca, deadline=20.0, retries=2))


def planned_files(directory: Path, settings: Settings) -> dict[str, Path]:
    """What :func:`initialise` makes; the files by what they are.

    Raises:
        StateError: there is a verifier already.
        UsageError: a policy or root that the settings name cannot be read.
    """
    if (directory / SETTINGS_FILE).exists():
        raise StateError(str(directory), "make a verifier", "there is one already", "an empty directory")
    _policies(settings)
    _roots(settings)
    made = {"settings": directory / SETTINGS_FILE, "token key": directory / settings.token_key}
    if settings.tls_certificate:
        made |= {
            "TLS CA": directory / "tls-ca.crt",
            "TLS certificate": directory / settings.tls_certificate,
            "TLS key": directory / settings.tls_key,
        }
    return made


def initialise(directory: Path, settings: Settings, names: tuple[str, ...] = ()) -> dict[str, Path]:
    """Make a directory with settings, a token key and, if the settings name them, TLS files.

    Args:
        names: what the TLS certificate is for, besides the settings' address.

    Returns:
        the files by what they are.

    Raises:
        StateError: there is a verifier already.
        UsageError: a policy or root that the settings name cannot be read.
    """
    made = planned_files(directory, settings)
    files.private_directory(directory)
    key = ec.generate_private_key(ec.SECP384R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    files.write_atomic(made["token key"], pem, mode=0o600)
    if settings.tls_certificate:
        tls = make_tls("verifier", (settings.host, "localhost", "127.0.0.1", "::1", *names))
        files.write_atomic(made["TLS key"], tls.key, mode=0o600)
        files.write_atomic(made["TLS certificate"], tls.certificate)
        files.write_atomic(made["TLS CA"], tls.ca)
    files.write_atomic(made["settings"], write_settings(settings), mode=0o600)
    return made

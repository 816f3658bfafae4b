"""A new service's directory: settings, tokens, a TLS key with its certificate, the database."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tdxstack.errors import StateError
from tdxstack.pcs.client import INTEL_PCS
from tdxstack.services.pccs.service import open_service
from tdxstack.services.pccs.settings import Settings
from tdxstack.services.pccs.tokens import hash_token, new_token
from tdxstack.services.tls import make_tls
from tdxstack.system import files


@dataclass(frozen=True, slots=True)
class Plan:
    """What a new service is to be; ``names`` are further subject names of its TLS certificate."""

    mode: str = "LAZY"
    upstream: str | None = None
    database: str = "sqlite:///pccs.db"
    host: str = "127.0.0.1"
    port: int = 8081
    names: tuple[str, ...] = ()
    trust_roots: tuple[str, ...] = ()


def planned_files(directory: Path) -> dict[str, Path]:
    """What :func:`initialise` makes; the files by what they are.

    Raises:
        StateError: there is a service already.
    """
    made = {
        "settings": directory / "pccs.toml",
        "user token": directory / "user-token",
        "admin token": directory / "admin-token",
        "TLS CA": directory / "tls-ca.crt",
        "TLS certificate": directory / "tls.crt",
        "TLS key": directory / "tls.key",
    }
    if made["settings"].exists():
        raise StateError(str(directory), "make a PCCS", "there is one already", "an empty directory")
    return made


def initialise(directory: Path, plan: Plan) -> dict[str, Path]:
    """Make the directory; the files by what they are.

    The tokens are in files of their own that only the owner can read; the settings hold their hashes.

    Raises:
        StateError: there is a service already.
        UsageError, PlatformMissing, SystemFault
    """
    made = planned_files(directory)
    files.private_directory(directory)
    tokens = new_token(), new_token()
    roots = [str(Path(root).absolute()) for root in plan.trust_roots]
    settings = Settings(
        mode=plan.mode,
        upstream=plan.upstream or INTEL_PCS,
        trust_roots=roots or ["intel"],
        database=plan.database,
        host=plan.host,
        port=plan.port,
        tls_certificate="tls.crt",
        tls_key="tls.key",
        user_token=hash_token(tokens[0]),
        admin_token=hash_token(tokens[1]),
    )
    tls = make_tls("PCCS", (plan.host, "localhost", "127.0.0.1", "::1", *plan.names))
    files.write_atomic(made["TLS key"], tls.key, mode=0o600)
    files.write_atomic(made["TLS certificate"], tls.certificate)
    files.write_atomic(made["TLS CA"], tls.ca)
    for name, token in zip(("user token", "admin token"), tokens, strict=True):
        files.write_atomic(made[name], token + "\n", mode=0o600)
    text = settings.to_toml()
    draft = directory / "pccs.toml.new"
    files.write_atomic(draft, text, mode=0o600)
    try:
        open_service(Settings.load(draft)).close()
    finally:
        draft.unlink()
    files.write_atomic(made["settings"], text, mode=0o600)
    return made

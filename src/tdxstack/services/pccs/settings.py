"""What can be set: one TOML file, whose every key is a field here with its type, default, unit and help."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tdxstack.errors import UsageError
from tdxstack.pcs.client import INTEL_PCS
from tdxstack.services.settings_file import read_settings, setting, write_settings

#: Modes, by the names that Intel's PCCS gives them.
MODES = ("LAZY", "REQ", "OFFLINE")


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one service. Paths are taken from the file's own directory."""

    mode: str = setting("LAZY", "when upstream is asked: LAZY, REQ or OFFLINE")
    upstream: str = setting(
        INTEL_PCS, "URL of Intel's PCS or of a PCCS; platform:NAME for a software platform of this machine"
    )
    upstream_ca_file: str = setting(
        "", "PEM file of the CAs that sign upstream's TLS certificate; empty: the system's"
    )
    api_key_file: str = setting("", "file with the subscription key that Intel's PCS wants for PCK certificates")
    trust_roots: list[str] = field(
        default_factory=lambda: ["intel"],
        metadata={
            "help": "what collateral must be signed under: intel, or certificate files; a platform adds its own"
        },
    )
    database: str = setting(
        "sqlite:///pccs.db", "SQLAlchemy URL; sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME"
    )
    host: str = setting("127.0.0.1", "address to listen on")
    port: int = setting(8081, "TCP port to listen on; 0: any that is free")
    tls_certificate: str = setting(
        "", "PEM file of the TLS certificate and its chain; empty: plain HTTP, on loopback only"
    )
    tls_key: str = setting("", "PEM file of its key")
    user_token: str = setting("", "hash of the token for registering platforms; empty: nobody can")
    admin_token: str = setting("", "hash of the token for administration; empty: nobody can")
    max_body_bytes: int = setting(2 << 20, "largest body of a request, in bytes")
    refresh_hours: int = setting(24, "everything is fetched anew every so many hours; 0: never")
    poll_seconds: float = setting(1.0, "after so many seconds at most a replica sees what another one has written")
    log_reads: bool = setting(False, "log requests that read, too")

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UsageError(f"mode {self.mode!r}", hint=f"one of {', '.join(MODES)}")
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise UsageError("one of tls_certificate and tls_key is set, the other is not")
        if not self.tls_certificate and self.host not in ("127.0.0.1", "::1", "localhost"):
            raise UsageError(
                f"plain HTTP on {self.host}: tokens would be sent in the clear",
                hint="set tls_certificate and tls_key (tdxctl pccs init makes them), or listen on 127.0.0.1",
            )
        if not 0 <= self.port <= 65535:
            raise UsageError(f"port {self.port}")
        if not 1024 <= self.max_body_bytes <= 1 << 28 or self.refresh_hours < 0 or not 0 < self.poll_seconds <= 60:
            raise UsageError("max_body_bytes, refresh_hours or poll_seconds is out of bounds")

    @classmethod
    def load(cls, path: Path) -> Settings:
        """Read a file.

        Raises:
            UsageError: it cannot be read, has a key that is not known, or a value that is not allowed.
        """
        return _absolute(read_settings(cls, path), path.parent.absolute())

    def to_toml(self) -> str:
        """The file's text, each setting with its help."""
        return write_settings(self)


def _absolute(settings: Settings, folder: Path) -> Settings:
    paths = ("upstream_ca_file", "api_key_file", "tls_certificate", "tls_key")
    changed: dict[str, Any] = {name: str(folder / value) for name in paths if (value := getattr(settings, name))}
    changed["trust_roots"] = [root if root == "intel" else str(folder / root) for root in settings.trust_roots]
    prefix = "sqlite:///"
    if settings.database.startswith(prefix):
        changed["database"] = prefix + str(folder / settings.database.removeprefix(prefix))
    return dataclasses.replace(settings, **changed)

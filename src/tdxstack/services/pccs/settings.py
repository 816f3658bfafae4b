"""What can be set: one TOML file, whose every key is a field here with its type, default, unit and help."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tdxstack.errors import UsageError
from tdxstack.pcs.client import INTEL_PCS

#: Modes, by the names that Intel's PCCS gives them.
MODES = ("LAZY", "REQ", "OFFLINE")


def _setting(default: Any, help_text: str) -> Any:
    return field(default=default, metadata={"help": help_text})


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one service. Paths are taken from the file's own directory."""

    mode: str = _setting("LAZY", "when upstream is asked: LAZY, REQ or OFFLINE")
    upstream: str = _setting(
        INTEL_PCS, "URL of Intel's PCS or of a PCCS; platform:NAME for a software platform of this machine"
    )
    upstream_ca_file: str = _setting(
        "", "PEM file of the CAs that sign upstream's TLS certificate; empty: the system's"
    )
    api_key_file: str = _setting("", "file with the subscription key that Intel's PCS wants for PCK certificates")
    trust_roots: list[str] = field(
        default_factory=lambda: ["intel"],
        metadata={
            "help": "what collateral must be signed under: intel, or certificate files; a platform adds its own"
        },
    )
    database: str = _setting(
        "sqlite:///pccs.db", "SQLAlchemy URL; sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME"
    )
    host: str = _setting("127.0.0.1", "address to listen on")
    port: int = _setting(8081, "TCP port to listen on; 0: any that is free")
    tls_certificate: str = _setting(
        "", "PEM file of the TLS certificate and its chain; empty: plain HTTP, on loopback only"
    )
    tls_key: str = _setting("", "PEM file of its key")
    user_token: str = _setting("", "hash of the token for registering platforms; empty: nobody can")
    admin_token: str = _setting("", "hash of the token for administration; empty: nobody can")
    max_body_bytes: int = _setting(2 << 20, "largest body of a request, in bytes")
    refresh_hours: int = _setting(24, "everything is fetched anew every so many hours; 0: never")
    poll_seconds: float = _setting(1.0, "after so many seconds at most a replica sees what another one has written")
    log_reads: bool = _setting(False, "log requests that read, too")

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
        try:
            values = tomllib.loads(path.read_text())
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}", hint="tdxctl pccs init makes one") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: {error}") from None
        known = {one.name: one for one in dataclasses.fields(cls)}
        for name, value in values.items():
            if name not in known:
                raise UsageError(f"{path}: {name} is not a setting", hint=f"known are {', '.join(known)}")
            _check_type(path, name, value, str(known[name].type))
        return _absolute(cls(**values), path.parent.absolute())

    def to_toml(self) -> str:
        """The file's text, each setting with its help."""
        lines = []
        for one in dataclasses.fields(self):
            lines += [f"# {one.metadata['help']}", f"{one.name} = {_toml(getattr(self, one.name))}", ""]
        return "\n".join(lines)


_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "list[str]": (list,),
}


def _check_type(path: Path, name: str, value: Any, kind: str) -> None:
    right = isinstance(value, _TYPES[kind]) and (kind == "bool" or not isinstance(value, bool))
    if right and isinstance(value, list):
        right = all(isinstance(item, str) for item in value)
    if not right:
        raise UsageError(f"{path}: {name} is not of type {kind}")


def _absolute(settings: Settings, folder: Path) -> Settings:
    paths = ("upstream_ca_file", "api_key_file", "tls_certificate", "tls_key")
    changed: dict[str, Any] = {name: str(folder / value) for name in paths if (value := getattr(settings, name))}
    changed["trust_roots"] = [root if root == "intel" else str(folder / root) for root in settings.trust_roots]
    prefix = "sqlite:///"
    if settings.database.startswith(prefix):
        changed["database"] = prefix + str(folder / settings.database.removeprefix(prefix))
    return dataclasses.replace(settings, **changed)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return str(value)

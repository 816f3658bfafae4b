"""What the database keeps, as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tdxstack.pcs.source import Ca, PckCertificate
from tdxstack.services.pccs.schema import Kind


@dataclass(frozen=True, slots=True)
class Document:
    """A signed document or CRL; times are Unix seconds."""

    kind: Kind
    version: int
    name: str
    evaluation: str
    body: bytes
    issuer_chain: str
    fetched: int
    expires: int


@dataclass(frozen=True, slots=True)
class Platform:
    """A platform that PCK certificates are kept for."""

    qe_id: str
    pce_id: str
    platform_manifest: str
    enc_ppid: str
    fmspc: str
    ca: Ca


@dataclass(frozen=True, slots=True)
class RawTcb:
    """The TCB that a platform reports, in upper-case hexadecimal: CPUSVN (16 bytes), PCE SVN (2, little-endian)."""

    cpu_svn: str
    pce_svn: str


@dataclass(frozen=True, slots=True)
class Registration:
    """A platform that asked to be registered. With a manifest the other fields but the ids are empty."""

    qe_id: str
    pce_id: str
    cpu_svn: str = ""
    pce_svn: str = ""
    enc_ppid: str = ""
    platform_manifest: str = ""


@dataclass(frozen=True, slots=True)
class PlatformRecord:
    """All that is kept of a platform: it is replaced as a whole. ``selected`` maps raw TCBs to TCBMs."""

    platform: Platform
    certificates: Sequence[PckCertificate]
    unavailable: Sequence[str]
    issuer_chain: str
    selected: Mapping[RawTcb, str]

"""What a source of collateral answers, and what it is asked for.

Intel's PCS, a caching service, a bundle on disk and a software platform are all a :class:`Source`. Names are those of
Intel's "SGX and TDX Provisioning Certification Service" API, version 4. Signed bodies are kept byte for byte.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from tdxstack.errors import UsageError


class Tee(StrEnum):
    """Which kind of trusted execution environment a document is for."""

    SGX = "sgx"
    TDX = "tdx"


class Ca(StrEnum):
    """The intermediate CA that issued a PCK certificate."""

    PROCESSOR = "processor"
    PLATFORM = "platform"


class Enclave(StrEnum):
    """Enclaves whose identity Intel signs; the values are the ``id`` of the documents."""

    QE = "QE"
    QVE = "QVE"
    TD_QE = "TD_QE"

    @property
    def tee(self) -> Tee:
        """Under which root of the API its identity is."""
        return Tee.TDX if self is Enclave.TD_QE else Tee.SGX

    @property
    def path(self) -> str:
        """Its path below that root."""
        return "qve/identity" if self is Enclave.QVE else "qe/identity"


_NUMBER = re.compile(r"[0-9]{1,9}\Z")


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """Which issue of the TCB evaluation data: ``standard``, ``early``, or a ``tcbEvaluationDataNumber``.

    Raises:
        UsageError: on construction, if it is none of them.
    """

    name: str

    def __post_init__(self) -> None:
        if self.name not in ("standard", "early") and not _NUMBER.match(self.name):
            raise UsageError(f"{self.name!r}: no evaluation set", hint="give standard, early, or a number such as 17")

    @property
    def number(self) -> int | None:
        """The evaluation data number, where the set was asked for by number."""
        return int(self.name) if self.name.isdecimal() else None

    @property
    def query(self) -> dict[str, str]:
        """The parameter of the request."""
        return {"update": self.name} if self.number is None else {"tcbEvaluationDataNumber": str(self.number)}

    def __str__(self) -> str:
        return self.name


STANDARD = EvaluationSet("standard")
EARLY = EvaluationSet("early")


@dataclass(frozen=True, slots=True)
class SignedDocument:
    """A response such as ``{"tcbInfo":{...},"signature":"..."}`` as it came, and the PEM chain of its signer."""

    body: bytes
    issuer_chain: str


@dataclass(frozen=True, slots=True)
class Crl:
    """A revocation list in DER and the PEM chain of its issuer (empty for the root CA's)."""

    der: bytes
    issuer_chain: str = ""


@dataclass(frozen=True, slots=True)
class PckCertificate:
    """One PCK certificate (PEM). ``tcbm`` is CPUSVN, PCE SVN (little-endian) in 36 upper-case hexadecimal digits."""

    tcbm: str
    pem: str


@dataclass(frozen=True, slots=True)
class PckCertificates:
    """All PCK certificates of one platform.

    ``unavailable`` holds the TCBMs for which the service says ``Not available``. ``fmspc`` is 12 hexadecimal digits
    in upper case, ``issuer_chain`` is PEM: intermediate, then root.
    """

    certificates: tuple[PckCertificate, ...]
    unavailable: tuple[str, ...]
    fmspc: str
    ca: Ca
    issuer_chain: str


@dataclass(frozen=True, slots=True)
class PlatformIdentity:
    """What names a platform to the service: its manifest (multi-package), or its encrypted PPID (384 bytes in
    hexadecimal), and the PCE's id (4 hexadecimal digits, little-endian)."""

    pce_id: str
    enc_ppid: str = ""
    manifest: str = ""


class Source(Protocol):
    """Where collateral comes from. Every method raises CollateralAbsent or CollateralUnreachable."""

    @property
    def name(self) -> str:
        """What to call it in messages, e.g. its URL."""
        ...

    def tcb_info(self, tee: Tee, fmspc: str, evaluation: EvaluationSet = STANDARD) -> SignedDocument: ...

    def identity(self, enclave: Enclave, evaluation: EvaluationSet = STANDARD) -> SignedDocument: ...

    def pck_crl(self, ca: Ca) -> Crl: ...

    def root_ca_crl(self) -> Crl: ...

    def crl(self, uri: str) -> Crl:
        """The CRL at a distribution point."""
        ...

    def pck_certificates(self, platform: PlatformIdentity) -> PckCertificates: ...

    def evaluation_numbers(self, tee: Tee) -> SignedDocument:
        """Which evaluation data numbers are served at present."""
        ...

    def close(self) -> None: ...

"""A software platform of this machine as upstream: it publishes its own collateral and its own PCK certificate.

It has one issue of everything (``early`` and ``standard`` are the same), TDX only, and one platform CA.
"""

from __future__ import annotations

import hashlib

from tdxstack.errors import CollateralAbsent
from tdxstack.pcs import inspect
from tdxstack.pcs.source import (
    STANDARD,
    Ca,
    Crl,
    Enclave,
    EvaluationSet,
    PckCertificate,
    PckCertificates,
    PlatformIdentity,
    SignedDocument,
    Tee,
)
from tdxstack.platform.software.platform import SoftwarePlatform
from tdxstack.services.pccs.selection import extension_of

#: How an upstream that is a software platform is written in the settings.
PREFIX = "platform:"


class SoftwareSource:
    """A :class:`~tdxstack.pcs.source.Source`. The platform is read from disk at each question."""

    def __init__(self, platform: SoftwarePlatform) -> None:
        self._platform = platform

    @classmethod
    def open(cls, name: str) -> SoftwareSource:
        """Open the platform. Raises PlatformMissing."""
        return cls(SoftwarePlatform.open(name))

    @property
    def name(self) -> str:
        """Tells this platform from another of the same name, made after it or in another home: caches go by it."""
        root = hashlib.sha256(self.trust_root()).hexdigest()[:12]
        return f"{PREFIX}{self._platform.name} (software, root {root})"

    def close(self) -> None:
        """Nothing is open."""

    def trust_root(self) -> bytes:
        """DER of the platform's root, under which all of this is signed."""
        return self._platform.trust_root()

    def tcb_info(self, tee: Tee, fmspc: str, evaluation: EvaluationSet = STANDARD) -> SignedDocument:
        held = self._platform.collateral()
        document = SignedDocument(
            inspect.response(inspect.TCB_INFO, held["tcb_info"], held["tcb_info_signature"]),
            held["tcb_info_issuer_chain"],
        )
        known = self._platform.describe()["fmspc"]
        if tee is not Tee.TDX or fmspc.lower() != known or not self._matches(evaluation, document, inspect.TCB_INFO):
            raise self._absent(f"TCB info of {fmspc} ({tee}, {evaluation})")
        return document

    def identity(self, enclave: Enclave, evaluation: EvaluationSet = STANDARD) -> SignedDocument:
        held = self._platform.collateral()
        document = SignedDocument(
            inspect.response(inspect.IDENTITY, held["qe_identity"], held["qe_identity_signature"]),
            held["qe_identity_issuer_chain"],
        )
        if enclave is not Enclave.TD_QE or not self._matches(evaluation, document, inspect.IDENTITY):
            raise self._absent(f"identity of {enclave} ({evaluation})")
        return document

    def pck_crl(self, ca: Ca) -> Crl:
        if ca is not Ca.PLATFORM:
            raise self._absent(f"PCK CRL of the {ca} CA")
        held = self._platform.collateral()
        return Crl(bytes.fromhex(held["pck_crl"]), held["pck_crl_issuer_chain"])

    def root_ca_crl(self) -> Crl:
        return Crl(bytes.fromhex(self._platform.collateral()["root_ca_crl"]))

    def crl(self, uri: str) -> Crl:
        raise self._absent(f"CRL {uri}")

    def evaluation_numbers(self, tee: Tee) -> SignedDocument:
        raise self._absent(f"TCB evaluation data numbers ({tee})")

    def pck_certificates(self, platform: PlatformIdentity) -> PckCertificates:
        chain = self._platform.pck_chain()
        leaf, rest = chain.split("-----END CERTIFICATE-----\n", 1)
        pem = f"{leaf}-----END CERTIFICATE-----\n"
        extension = extension_of(pem)
        if platform.pce_id.upper() != extension.pce_id.hex().upper():
            raise self._absent("PCK certificates")
        tcbm = (extension.tcb.cpu_svn + extension.tcb.pce_svn.to_bytes(2, "little")).hex().upper()
        found = (PckCertificate(tcbm, pem),)
        return PckCertificates(found, (), extension.fmspc.hex().upper(), Ca.PLATFORM, rest)

    @staticmethod
    def _matches(evaluation: EvaluationSet, document: SignedDocument, member: str) -> bool:
        return evaluation.number is None or inspect.facts(document, member).number == evaluation.number

    def _absent(self, item: str) -> CollateralAbsent:
        return CollateralAbsent(item, f"{item}: {self.name} has none")

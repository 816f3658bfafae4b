"""Whole sets of collateral: what one verification needs, put together from its parts.

The one-document form is that of :class:`tdxstack.dcap.Collateral`: raw signed bodies, CRLs in hexadecimal DER.
"""

from __future__ import annotations

from dataclasses import dataclass

from tdxstack.dcap import Collateral
from tdxstack.dcap.signed_json import DocumentFault, load_object, text_of, unsigned
from tdxstack.errors import CollateralError
from tdxstack.pcs import inspect
from tdxstack.pcs.source import STANDARD, Ca, Enclave, EvaluationSet, Source, Tee


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which set: for platforms of one FMSPC (12 upper-case digits) whose PCK certificates ``ca`` issued."""

    fmspc: str
    tee: Tee = Tee.TDX
    ca: Ca = Ca.PLATFORM
    evaluation: EvaluationSet = STANDARD

    @property
    def key(self) -> str:
        """A file name."""
        return f"{self.tee}-{self.fmspc}-{self.ca}-{self.evaluation}"

    def __str__(self) -> str:
        return f"{self.tee.upper()} {self.fmspc} ({self.ca} CA, {self.evaluation})"


def fetch(source: Source, wanted: Wanted) -> Collateral:
    """Ask ``source`` for all parts.

    The identity is asked for in the same evaluation set as the TCB info, so that both are of one issue.

    Raises:
        CollateralError: a part is absent, unreachable or cannot be read.
    """
    tcb = source.tcb_info(wanted.tee, wanted.fmspc, wanted.evaluation)
    enclave = Enclave.TD_QE if wanted.tee is Tee.TDX else Enclave.QE
    identity = source.identity(enclave, wanted.evaluation)
    pck_crl = source.pck_crl(wanted.ca)
    root_crl = source.root_ca_crl()
    tcb_facts = inspect.facts(tcb, inspect.TCB_INFO)
    identity_facts = inspect.facts(identity, inspect.IDENTITY)
    if (number := wanted.evaluation.number) is not None and tcb_facts.number != number:
        raise CollateralError(
            "tcb_info",
            f"{source.name}: asked for evaluation data number {number}, it served {tcb_facts.number}",
            hint="ask Intel's PCS, or a PCCS that knows numbered sets",
        )
    inspect.revocation_list(pck_crl, "pck_crl")
    inspect.revocation_list(root_crl, "root_ca_crl")
    return Collateral(
        tcb_info=tcb_facts.text,
        tcb_info_signature=tcb_facts.signature,
        tcb_info_issuer_chain=tcb.issuer_chain,
        qe_identity=identity_facts.text,
        qe_identity_signature=identity_facts.signature,
        qe_identity_issuer_chain=identity.issuer_chain,
        root_ca_crl=root_crl.der.hex(),
        pck_crl=pck_crl.der.hex(),
        pck_crl_issuer_chain=pck_crl.issuer_chain,
    )


@dataclass(frozen=True, slots=True)
class Described:
    """What a set is for, by its own words."""

    fmspc: str
    tee: Tee
    ca: Ca
    number: int
    span: inspect.Span


def describe(collateral: Collateral) -> Described:
    """Read what a set is for.

    Raises:
        CollateralError: a part cannot be read.
    """
    try:
        info = load_object(collateral.tcb_info, "tcb_info")
        fmspc = text_of(info, "fmspc").upper()
        number = unsigned(info, "tcbEvaluationDataNumber")
        kind = text_of(info, "id") if "id" in info else "SGX"
    except DocumentFault as fault:
        raise CollateralError("tcb_info", f"tcb_info: {fault}") from None
    try:
        tee = Tee(kind.lower())
    except ValueError:
        raise CollateralError("tcb_info", f"tcb_info: {kind!r:.40} is not SGX or TDX") from None
    span = inspect.collateral_span(collateral)
    return Described(fmspc, tee, _issuing_ca(collateral), number, span)


def _issuing_ca(collateral: Collateral) -> Ca:
    from tdxstack.dcap.certificate import CertificateFault, RevocationList

    try:
        name = RevocationList.from_text(collateral.pck_crl).issuer.common_name
    except CertificateFault as fault:
        raise CollateralError("pck_crl", f"pck_crl: {fault}") from None
    return Ca.PROCESSOR if "Processor" in name else Ca.PLATFORM

"""The steps of QVL's ``VerifyQuoteEx``, in two halves: what is the same for every quote of one quoting enclave, and
the quote itself.

A quoting enclave keeps its attestation key for long, so the first half (PCK certificate, QE report, attestation key,
QE identity) is worth keeping: the :class:`Platform` of a quote is looked up by all the bytes it is made from.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from enum import StrEnum

from cryptography.hazmat.primitives.asymmetric import ec

from tdxstack.dcap.certificate import (
    MAX_CHAIN_LENGTH,
    Certificate,
    CertificateFault,
    MissingExtensions,
    RevocationList,
    certificate_of,
    p256_key,
    split_pem,
    verify_raw_p256,
)
from tdxstack.dcap.chain import Chain, Outcome
from tdxstack.dcap.documents import Documents
from tdxstack.dcap.enclave_identity import QE_ID, TD_QE_ID
from tdxstack.dcap.status import STATUS_OF_TCB, QvlStatus, VerifyFault
from tdxstack.dcap.tcb import TcbVerdict, judge
from tdxstack.dcap.tcb_info import TDX_ID, TcbInfo
from tdxstack.wire.quote import (
    INTEL_QE_VENDOR_ID,
    CertificationData,
    QeCertification,
    Quote,
    TdReportBody,
    TeeType,
)
from tdxstack.wire.sgx_extension import SgxExtension
from tdxstack.wire.sgx_report import SgxReportBody

#: TCB outcomes kept for one platform; there are as many as TDX module versions under which its TDs were started.
_OUTCOMES_KEPT = 64
#: Version 3 to 5 quotes are at least this long (QVL ``QUOTE_MIN_BYTE_LEN``).
MIN_QUOTE_SIZE = 1020
_PCK_CN = "SGX PCK Certificate"
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


class QuoteStep(StrEnum):
    """The steps of judging a quote, in order."""

    FORMAT = "quote_format"
    PCK = "pck_of_quote"
    TCB_INFO_MATCH = "tcb_info_match"
    TDX_MODULE = "tdx_module"
    QE_REPORT_SIGNATURE = "qe_report_signature"
    ATTESTATION_KEY = "attestation_key"
    QE_IDENTITY = "qe_identity_match"
    QUOTE_SIGNATURE = "quote_signature"
    TCB = "tcb_level"


class StepFault(VerifyFault):
    """A fault at a known step."""

    def __init__(self, step: QuoteStep, status: QvlStatus, detail: str) -> None:
        super().__init__(status, detail)
        self.step = step


@dataclass(slots=True)
class PckChain:
    """A quote's PCK chain with the outcome of ``VerifyPCKCertificate``. ``chain`` is None if it cannot be read.

    ``leaf`` is the PCK certificate, which ``VerifyQuoteEx`` is given by itself: read whatever is wrong with the rest
    of the chain. Where it cannot be read it is None, and ``leaf_fault`` says why.
    """

    chain: Chain | None
    outcome: Outcome
    leaf: Certificate | None = None
    leaf_fault: VerifyFault | None = None
    #: Whether neither quote nor collateral holds one.
    missing: bool = False


def find_leaf(text: bytes, chain: Chain | None) -> tuple[Certificate | None, VerifyFault | None]:
    """The PCK certificate of a chain's PEM: the one with its name, else the first one; or why there is none."""
    if chain is not None:
        return chain.pck or chain.certificates[0], None
    fault = VerifyFault(QvlStatus.UNSUPPORTED_PCK_CERT_FORMAT, "no certificate can be read")
    first: Certificate | None = None
    for number, block in enumerate(_PEM.findall(text)[:MAX_CHAIN_LENGTH]):
        try:
            certificate = certificate_of(split_pem(block)[0])
        except MissingExtensions as error:
            status = QvlStatus.INVALID_PCK_CERT
            if number == 0 or _PCK_CN in str(error):
                fault = VerifyFault(status, str(error))
        except (CertificateFault, IndexError) as error:
            if number == 0:
                fault = VerifyFault(QvlStatus.UNSUPPORTED_PCK_CERT_FORMAT, str(error))
        else:
            if _PCK_CN in certificate.subject.common_name:
                return certificate, None
            first = certificate if number == 0 else first
    return first, None if first else fault


@dataclass(slots=True)
class Platform:
    """What is the same for all quotes of one quoting enclave.

    ``first_fault`` stands before the TDX module's check in QVL's order, ``second_fault`` after it.
    """

    pck: PckChain
    sgx: SgxExtension | None
    first_fault: StepFault | None
    second_fault: StepFault | None
    attestation_key: ec.EllipticCurvePublicKey | None
    qe_report: SgxReportBody
    outcomes: dict[tuple[bytes | None, bytes | None], QuoteOutcome] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class QuoteOutcome:
    """Result of ``VerifyQuoteEx``: ``step`` is where it ended, the last one if nothing failed."""

    status: QvlStatus
    step: QuoteStep
    detail: str
    verdict: TcbVerdict | None = None


def certification_of(quote: Quote, raw: bytes) -> QeCertification:
    """What certifies the attestation key. Raises StepFault for a form that QVL refuses. (``Quote::validate``)"""
    if len(raw) < MIN_QUOTE_SIZE:
        raise _format("size", f"{len(raw)} bytes, fewer than {MIN_QUOTE_SIZE}")
    if quote.header.qe_vendor_id != INTEL_QE_VENDOR_ID:
        raise _format("qe_vendor_id at offset 12", f"{quote.header.qe_vendor_id.hex()} is not Intel's")
    outer = quote.signature.certification
    if isinstance(outer, CertificationData):
        raise _format("certification data", f"outer type {outer.type} where 6 belongs")
    if not 1 <= outer.certification.type <= 5:
        raise _format("certification data", f"inner type {outer.certification.type} is not 1 to 5")
    return outer


def _format(name: str, detail: str) -> StepFault:
    return StepFault(QuoteStep.FORMAT, QvlStatus.UNSUPPORTED_QUOTE_FORMAT, f"{name}: {detail}")


def check_platform(quote: Quote, certification: QeCertification, pck: PckChain, documents: Documents) -> Platform:
    """Steps 4.1.2.5.4 to .11 and .13 to .16, which do not depend on the TD."""
    first = second = sgx = None
    try:
        sgx = _check_pck(quote, pck, documents)
    except StepFault as fault:
        first = fault
    key = p256_key(quote.signature.attestation_key)
    try:
        _check_qe(quote, certification, pck.leaf, documents)
        if key is None:
            raise StepFault(
                QuoteStep.ATTESTATION_KEY,
                QvlStatus.UNSUPPORTED_QUOTE_FORMAT,
                "attestation key: no point of the curve",
            )
    except StepFault as fault:
        second = fault
    return Platform(pck, sgx, first, second, key, certification.qe_report)


def _check_pck(quote: Quote, pck: PckChain, documents: Documents) -> SgxExtension:
    """The collateral is readable, the PCK certificate is one, is not revoked, and the TCB info is for it."""

    crl, info, leaf = documents.pck_crl, documents.tcb_info, pck.leaf
    if pck.missing:
        raise StepFault(QuoteStep.PCK, QvlStatus.MISSING_PARAMETERS, pck.outcome.detail)
    if crl is None:
        raise StepFault(QuoteStep.PCK, QvlStatus.UNSUPPORTED_PCK_RL_FORMAT, documents.crl_fault)
    if info is None:
        detail = documents.tcb_info_outcome.detail
        raise StepFault(QuoteStep.TCB_INFO_MATCH, QvlStatus.UNSUPPORTED_TCB_INFO_FORMAT, detail)
    if documents.identity is None:
        detail = documents.identity_outcome.detail
        raise StepFault(QuoteStep.QE_IDENTITY, QvlStatus.UNSUPPORTED_QE_IDENTITY_FORMAT, detail)
    if leaf is None:
        fault = pck.leaf_fault or VerifyFault(QvlStatus.UNSUPPORTED_PCK_CERT_FORMAT, pck.outcome.detail)
        raise StepFault(QuoteStep.PCK, fault.status, fault.detail)
    try:
        sgx = leaf.sgx
    except MissingExtensions as fault:
        raise StepFault(QuoteStep.PCK, QvlStatus.INVALID_PCK_CERT, str(fault)) from None
    except CertificateFault as fault:
        raise StepFault(QuoteStep.PCK, QvlStatus.UNSUPPORTED_PCK_CERT_FORMAT, str(fault)) from None
    _match_pck(leaf, crl)
    _match_tcb_info(sgx, info, quote)
    if leaf.key is None:
        raise StepFault(QuoteStep.PCK, QvlStatus.INVALID_PCK_CERT, "PCK certificate: no P-256 key")
    return sgx


def _match_pck(leaf: Certificate, crl: RevocationList) -> None:
    """The certificate is named as one of a PCK, the CRL is its issuer's, and it is not revoked."""
    if _PCK_CN not in leaf.subject.common_name:
        detail = f"PCK certificate: named {leaf.subject.common_name!r}"
        raise StepFault(QuoteStep.PCK, QvlStatus.INVALID_PCK_CERT, detail)
    if "CA" not in crl.issuer.common_name or crl.issuer.der != leaf.issuer.der:
        detail = f"PCK CRL: of {crl.issuer.common_name!r}, not of the PCK's issuer"
        raise StepFault(QuoteStep.PCK, QvlStatus.INVALID_PCK_CRL, detail)
    if crl.revokes(leaf):
        raise StepFault(QuoteStep.PCK, QvlStatus.PCK_REVOKED, "the PCK certificate is in the PCK CRL")


def _match_tcb_info(sgx: SgxExtension, info: TcbInfo, quote: Quote) -> None:
    """The TCB info is for this TEE and this kind of platform."""
    if (info.id == TDX_ID) != (quote.header.tee_type == TeeType.TDX):
        detail = f"TCB info is for {info.id}"
    elif sgx.fmspc != info.fmspc:
        detail = f"FMSPC {sgx.fmspc.hex()}, TCB info for {info.fmspc.hex()}"
    elif sgx.pce_id != info.pce_id:
        detail = f"PCEID {sgx.pce_id.hex()}, TCB info for {info.pce_id.hex()}"
    else:
        return
    raise StepFault(QuoteStep.TCB_INFO_MATCH, QvlStatus.TCB_INFO_MISMATCH, detail)


def _check_qe(quote: Quote, certification: QeCertification, leaf: Certificate | None, documents: Documents) -> None:
    """QE report signature, attestation key binding, QE identity. (4.1.2.5.13 to .16)"""
    report = certification.qe_report
    key = leaf.key if leaf else None
    if not verify_raw_p256(key, certification.qe_report_signature, report.to_bytes()):
        raise StepFault(
            QuoteStep.QE_REPORT_SIGNATURE,
            QvlStatus.INVALID_QE_REPORT_SIGNATURE,
            "the PCK key did not sign the quoting enclave's report",
        )
    bound = hashlib.sha256(quote.signature.attestation_key + certification.qe_auth_data).digest()
    if report.report_data[:32] != bound:
        raise StepFault(
            QuoteStep.ATTESTATION_KEY,
            QvlStatus.INVALID_QE_REPORT_DATA,
            "the quoting enclave's report does not bind the attestation key",
        )
    identity = documents.identity
    if identity is None:
        return
    wanted = TD_QE_ID if quote.header.tee_type == TeeType.TDX else QE_ID
    mismatch = (
        f"identity {identity.id} where {wanted} belongs" if identity.id != wanted else identity.mismatch(report)
    )
    if mismatch:
        raise StepFault(QuoteStep.QE_IDENTITY, QvlStatus.QE_IDENTITY_MISMATCH, mismatch)


def check_quote(quote: Quote, signed: bytes, platform: Platform, documents: Documents) -> QuoteOutcome:
    """``VerifyQuoteEx`` for a quote whose platform is known; ``signed`` is what its signature covers."""
    try:
        if platform.first_fault:
            raise platform.first_fault
        if isinstance(quote.body, TdReportBody) and documents.tcb_info:
            check_tdx_module(quote.body, documents.tcb_info)
        if platform.second_fault:
            raise platform.second_fault
        if not verify_raw_p256(platform.attestation_key, quote.signature.signature, signed):
            raise StepFault(
                QuoteStep.QUOTE_SIGNATURE,
                QvlStatus.INVALID_QUOTE_SIGNATURE,
                "the attestation key did not sign header and body",
            )
    except StepFault as fault:
        return QuoteOutcome(fault.status, fault.step, fault.detail)
    body = quote.body
    svns = (body.tee_tcb_svn, body.tee_tcb_svn2) if isinstance(body, TdReportBody) else (None, None)
    outcome = platform.outcomes.get(svns)
    if outcome is None:
        outcome = _judge_tcb(svns, platform, documents)
        if len(platform.outcomes) < _OUTCOMES_KEPT:
            platform.outcomes[svns] = outcome
    return outcome


def check_tdx_module(body: TdReportBody, info: TcbInfo) -> None:
    """4.1.2.5.12: the TDX module's signer and SEAM attributes. Raises StepFault.

    Modules of major version 1 and above have an identity of their own; the attributes' mask is not applied.
    """
    module = info.tdx_module
    major = body.tee_tcb_svn[1]
    if major:
        module = info.module_identity(major)
    if module is None:
        raise _module_fault(f"the TCB info has no identity TDX_{major:02X}")
    if body.mr_signer_seam != module.mr_signer:
        raise _module_fault(f"MRSIGNERSEAM {body.mr_signer_seam.hex()} is not {module.mr_signer.hex()}")
    if body.seam_attributes or any(module.attributes):
        raise _module_fault(f"SEAMATTRIBUTES {body.seam_attributes:016x} where only zero is allowed")


def _module_fault(detail: str) -> StepFault:
    return StepFault(QuoteStep.TDX_MODULE, QvlStatus.TDX_MODULE_MISMATCH, detail)


def _judge_tcb(svns: tuple[bytes | None, bytes | None], platform: Platform, documents: Documents) -> QuoteOutcome:
    """4.1.2.5.18 to .20 for TEE_TCB_SVN and TEE_TCB_SVN2."""
    if platform.sgx is None or documents.tcb_info is None or documents.identity is None:
        return QuoteOutcome(QvlStatus.MISSING_PARAMETERS, QuoteStep.TCB, "no collateral to judge the TCB by")
    qe_svn = platform.qe_report.isv_svn
    try:
        verdict = judge(platform.sgx.tcb, *svns, qe_svn, info=documents.tcb_info, identity=documents.identity)
    except VerifyFault as fault:
        return QuoteOutcome(fault.status, QuoteStep.TCB, fault.detail)
    return QuoteOutcome(STATUS_OF_TCB[verdict.launch_status], QuoteStep.TCB, verdict.launch_status.value, verdict)

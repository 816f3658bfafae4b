"""Which collateral a quote needs: read from the PCK certificate chain that it carries."""

from __future__ import annotations

from tdxstack.dcap.certificate import CertificateFault, certificate_of, split_pem
from tdxstack.errors import CollateralError
from tdxstack.pcs.collateral import Wanted
from tdxstack.pcs.source import Ca, EvaluationSet, Tee
from tdxstack.wire.quote import CertificationData, CertificationType, QeCertification, Quote, TeeType


def wanted_for(quote: bytes, evaluation: EvaluationSet) -> Wanted:
    """The collateral for a quote.

    Raises:
        WireError: it is no quote.
        CollateralError: it carries no PCK certificate.
    """
    parsed = Quote.from_bytes(quote)
    certification: QeCertification | CertificationData = parsed.signature.certification
    if isinstance(certification, QeCertification):
        certification = certification.certification
    if certification.type != CertificationType.PCK_CHAIN:
        raise CollateralError(
            "pck_certificate_chain",
            f"the quote carries certification data of type {certification.type}, no PCK certificate",
            hint="give the platform's FMSPC: --fmspc",
        )
    try:
        leaf = next(
            certificate
            for certificate in (certificate_of(der) for der in split_pem(certification.data))
            if "PCK Certificate" in certificate.subject.common_name
        )
        fmspc = leaf.sgx.fmspc.hex().upper()
    except (CertificateFault, StopIteration) as fault:
        raise CollateralError("pck_certificate_chain", f"the quote's PCK certificate: {fault or 'absent'}") from None
    ca = Ca.PROCESSOR if "Processor" in leaf.issuer.common_name else Ca.PLATFORM
    tee = Tee.TDX if parsed.header.tee_type == TeeType.TDX else Tee.SGX
    return Wanted(fmspc, tee, ca, evaluation)

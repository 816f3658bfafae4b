"""The software TD quoting enclave (TD-QE) and its provisioning certification enclave (PCE).

Source: Intel TDX DCAP Quoting Library API. The TD-QE checks that the TDREPORT was made on this platform, signs header
and body with its attestation key, and carries what certifies that key: its own SGX report, whose REPORTDATA is
SHA-256(attestation key || QE auth data), signed by the platform's PCK key, and the PCK certificate chain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tdxstack.errors import TdxStackError, WireError
from tdxstack.platform.software.collateral import (
    QE_ATTRIBUTES,
    QE_MRENCLAVE,
    QE_MRSIGNER,
    QE_PRODUCT_ID,
    sign_raw,
)
from tdxstack.platform.software.pki import Pki
from tdxstack.platform.software.tcb import PlatformTcb
from tdxstack.platform.software.td import mac_is_valid
from tdxstack.wire.quote import (
    BodyType,
    CertificationData,
    CertificationType,
    QeCertification,
    Quote,
    QuoteHeader,
    QuoteSignature,
    TdReportBody,
    unsigned_quote,
)
from tdxstack.wire.sgx_report import SgxReportBody
from tdxstack.wire.tdreport import ReportVersion, TdReport

#: QE_ID: the first 16 bytes of the header's user data.
QE_ID = b"software TD-QE\0\0"
QE_AUTH_DATA = bytes(range(32))
_MAC_STRUCT_SIZE = 256


class ReportRefused(TdxStackError):
    """The quoting enclave does not quote this report; ``reason`` is one line."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"software TD-QE: {reason}", hint="quote a report on the platform that made it")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class QuotingEnclave:
    """The TD-QE of one platform.

    Args:
        attestation_key: ECDSA P-256, made by the TD-QE itself.
        report_key: by which the platform MACs TDREPORTs.
        tcb: the platform's SVNs, asked at each quote.
    """

    pki: Pki
    attestation_key: ec.EllipticCurvePrivateKey
    report_key: bytes
    tcb: Callable[[], PlatformTcb]

    def quote(self, report: bytes, version: int = 4) -> bytes:
        """Turn a TDREPORT (1024 bytes) into a quote.

        Args:
            version: 4 (TD 1.0 body), or 5 (TD 1.5 body, with TEE_TCB_SVN2 and MR_SERVICETD; of a report without them
                a TD 1.0 body).

        Raises:
            ReportRefused: not a TDREPORT, hashes that do not hold, or made elsewhere.
        """
        try:
            parsed = TdReport.from_bytes(report)
        except WireError as error:
            raise ReportRefused(str(error)) from None
        if not mac_is_valid(report[:_MAC_STRUCT_SIZE], self.report_key):
            raise ReportRefused("the report's MAC is not this platform's: it was made elsewhere or changed")
        if not parsed.hashes_hold:
            raise ReportRefused("the report's hashes are not those of its parts: it was changed")
        newer = version == 5 and parsed.report_type.version >= ReportVersion.TDX_1_5
        body = TdReportBody.from_tdreport(parsed, BodyType.TDX_1_5 if newer else BodyType.TDX_1_0)
        header = QuoteHeader(version, user_data=QE_ID + bytes(4))
        signature = sign_raw(self.attestation_key, unsigned_quote(header, body))
        return Quote(header, body, self._certified(signature)).to_bytes()

    def _certified(self, signature: bytes) -> QuoteSignature:
        """The signature with what certifies its key: the PCE's signature over the TD-QE's report."""
        public = public_bytes(self.attestation_key)
        report = self._report(hashlib.sha256(public + QE_AUTH_DATA).digest() + bytes(32))
        certification = QeCertification(
            qe_report=report,
            qe_report_signature=sign_raw(self.pki.pck.key, report.to_bytes()),
            qe_auth_data=QE_AUTH_DATA,
            certification=CertificationData(CertificationType.PCK_CHAIN, self.pki.pck_chain.encode() + b"\0"),
        )
        return QuoteSignature(signature, public, certification)

    def _report(self, report_data: bytes) -> SgxReportBody:
        tcb = self.tcb()
        return SgxReportBody(
            cpu_svn=tcb.cpusvn,
            misc_select=0,
            attributes=QE_ATTRIBUTES,
            mr_enclave=QE_MRENCLAVE,
            mr_signer=QE_MRSIGNER,
            isv_prod_id=QE_PRODUCT_ID,
            isv_svn=tcb.qe_svn,
            report_data=report_data,
        )


def public_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The public key as x || y, 64 bytes."""
    point = key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    return point[1:]

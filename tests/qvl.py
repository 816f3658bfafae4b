"""Intel's Quote Verification Library itself, where there is one: ``TDXSTACK_QVL`` names ``libQuoteVerification.so``.

``PYTHONPATH=src:tests python -m qvl record`` has it judge every case of ``forged_cases``, and writes its words down.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import sys
from pathlib import Path

from forge import NOW, pem
from forged_cases import cases
from tdxstack.dcap import Collateral
from tdxstack.dcap.certificate import Certificate, CertificateFault, split_pem

LIBRARY = os.environ.get("TDXSTACK_QVL")
RECORD = Path(__file__).parent / "vectors" / "dcap" / "qvl_1_27.json"
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
#: ``Status`` by number, QuoteVerification.h of version 1.27, as far as the four calls return them.
_STATUSES = [
    "OK",
    "UNSUPPORTED_CERT_FORMAT",
    "SGX_ROOT_CA_MISSING",
    "SGX_ROOT_CA_INVALID",
    "SGX_ROOT_CA_INVALID_EXTENSIONS",
    "SGX_ROOT_CA_INVALID_ISSUER",
    "SGX_ROOT_CA_UNTRUSTED",
    "SGX_INTERMEDIATE_CA_MISSING",
    "SGX_INTERMEDIATE_CA_INVALID",
    "SGX_INTERMEDIATE_CA_INVALID_EXTENSIONS",
    "SGX_INTERMEDIATE_CA_INVALID_ISSUER",
    "SGX_INTERMEDIATE_CA_REVOKED",
    "SGX_PCK_MISSING",
    "SGX_PCK_INVALID",
    "SGX_PCK_INVALID_EXTENSIONS",
    "SGX_PCK_INVALID_ISSUER",
    "SGX_PCK_REVOKED",
    "TRUSTED_ROOT_CA_INVALID",
    "SGX_PCK_CERT_CHAIN_UNTRUSTED",
    "SGX_TCB_INFO_UNSUPPORTED_FORMAT",
    "SGX_TCB_INFO_INVALID",
    "TCB_INFO_INVALID_SIGNATURE",
    "SGX_TCB_SIGNING_CERT_MISSING",
    "SGX_TCB_SIGNING_CERT_INVALID",
    "SGX_TCB_SIGNING_CERT_INVALID_EXTENSIONS",
    "SGX_TCB_SIGNING_CERT_INVALID_ISSUER",
    "SGX_TCB_SIGNING_CERT_CHAIN_UNTRUSTED",
    "SGX_TCB_SIGNING_CERT_REVOKED",
    "SGX_CRL_UNSUPPORTED_FORMAT",
    "SGX_CRL_UNKNOWN_ISSUER",
    "SGX_CRL_INVALID",
    "SGX_CRL_INVALID_EXTENSIONS",
    "SGX_CRL_INVALID_SIGNATURE",
    "SGX_CA_CERT_UNSUPPORTED_FORMAT",
    "SGX_CA_CERT_INVALID",
    "TRUSTED_ROOT_CA_UNSUPPORTED_FORMAT",
    "MISSING_PARAMETERS",
    "UNSUPPORTED_QUOTE_FORMAT",
    "UNSUPPORTED_PCK_CERT_FORMAT",
    "INVALID_PCK_CERT",
    "UNSUPPORTED_PCK_RL_FORMAT",
    "INVALID_PCK_CRL",
    "UNSUPPORTED_TCB_INFO_FORMAT",
    "PCK_REVOKED",
    "TCB_INFO_MISMATCH",
    "TCB_OUT_OF_DATE",
    "TCB_REVOKED",
    "TCB_CONFIGURATION_NEEDED",
    "TCB_OUT_OF_DATE_CONFIGURATION_NEEDED",
    "TCB_NOT_SUPPORTED",
    "TCB_UNRECOGNIZED_STATUS",
    "UNSUPPORTED_QE_CERTIFICATION",
    "INVALID_QE_CERTIFICATION_DATA_SIZE",
    "UNSUPPORTED_QE_CERTIFICATION_DATA_TYPE",
    "PCK_CERT_MISMATCH",
    "INVALID_QE_REPORT_SIGNATURE",
    "INVALID_QE_REPORT_DATA",
    "INVALID_QUOTE_SIGNATURE",
    "SGX_QE_IDENTITY_UNSUPPORTED_FORMAT",
    "SGX_QE_IDENTITY_INVALID",
    "SGX_QE_IDENTITY_INVALID_SIGNATURE",
    "SGX_ENCLAVE_REPORT_UNSUPPORTED_FORMAT",
    "SGX_ENCLAVE_IDENTITY_UNSUPPORTED_FORMAT",
    "SGX_ENCLAVE_IDENTITY_INVALID",
    "SGX_ENCLAVE_IDENTITY_UNSUPPORTED_VERSION",
    "SGX_ENCLAVE_IDENTITY_OUT_OF_DATE",
    "SGX_ENCLAVE_REPORT_MISCSELECT_MISMATCH",
    "SGX_ENCLAVE_REPORT_ATTRIBUTES_MISMATCH",
    "SGX_ENCLAVE_REPORT_MRENCLAVE_MISMATCH",
    "SGX_ENCLAVE_REPORT_MRSIGNER_MISMATCH",
    "SGX_ENCLAVE_REPORT_ISVPRODID_MISMATCH",
    "SGX_ENCLAVE_REPORT_ISVSVN_OUT_OF_DATE",
    "UNSUPPORTED_QE_IDENTITY_FORMAT",
    "QE_IDENTITY_OUT_OF_DATE",
    "QE_IDENTITY_MISMATCH",
    "SGX_TCB_INFO_EXPIRED",
    "SGX_ENCLAVE_IDENTITY_INVALID_SIGNATURE",
    "INVALID_PARAMETER",
    "SGX_PCK_CERT_CHAIN_EXPIRED",
    "SGX_CRL_EXPIRED",
    "SGX_SIGNING_CERT_CHAIN_EXPIRED",
    "SGX_ENCLAVE_IDENTITY_EXPIRED",
    "TCB_SW_HARDENING_NEEDED",
    "TCB_CONFIGURATION_AND_SW_HARDENING_NEEDED",
    "SGX_ENCLAVE_REPORT_ISVSVN_REVOKED",
    "TDX_MODULE_MISMATCH",
    "SGX_ENCLAVE_REPORT_ISVSVN_NOT_SUPPORTED",
    "TCB_TD_RELAUNCH_ADVISED",
    "TCB_TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED",
]


def judge(quote: bytes, collateral: Collateral, root: bytes, now: int) -> list[str]:
    """The library's four calls; the PCK chain is that in the quote."""
    library = ctypes.CDLL(str(LIBRARY))
    clock, trusted = ctypes.byref(ctypes.c_long(now)), pem(root).encode()
    start = quote.find(b"-----BEGIN CERTIFICATE-----")
    chain = quote[start:].partition(b"\0")[0] if start >= 0 else b""
    crls = (ctypes.c_char_p * 2)(_text(collateral.root_ca_crl), _text(collateral.pck_crl))
    info = f'{{"tcbInfo":{collateral.tcb_info},"signature":"{collateral.tcb_info_signature}"}}'
    identity = f'{{"enclaveIdentity":{collateral.qe_identity},"signature":"{collateral.qe_identity_signature}"}}'
    root_crl = _text(collateral.root_ca_crl)
    numbers = (
        library.sgxAttestationVerifyPCKCertificate(chain, crls, trusted, clock),
        library.sgxAttestationVerifyTCBInfo(
            _text(info), _text(collateral.tcb_info_issuer_chain), root_crl, trusted, clock
        ),
        library.sgxAttestationVerifyEnclaveIdentity(
            _text(identity), _text(collateral.qe_identity_issuer_chain), root_crl, trusted, clock
        ),
        library.sgxAttestationVerifyQuoteEx(
            quote, len(quote), _leaf(chain), _text(collateral.pck_crl), _text(info), _text(identity), None, 0
        ),
    )
    return [_STATUSES[number] for number in numbers]


def _text(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _leaf(chain: bytes) -> bytes:
    """The PEM of the PCK certificate: the one of that name, else the first."""
    blocks: list[bytes] = _PEM.findall(chain)
    for block in blocks:
        try:
            if "SGX PCK Certificate" in Certificate(split_pem(block)[0]).subject.common_name:
                return block
        except (CertificateFault, IndexError):
            continue
    return blocks[0] if blocks else b""


def main() -> None:
    """Record."""
    if sys.argv[1:] != ["record"] or not LIBRARY:
        sys.exit("TDXSTACK_QVL=libQuoteVerification.so python -m qvl record")
    found = {}
    for name, forge in cases():
        found[name] = " ".join(judge(*forge.build(), NOW))
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    RECORD.write_text(json.dumps(found, indent=0) + "\n")


if __name__ == "__main__":
    main()

"""The collateral, checked once against the trusted roots: all that depends on neither quote nor clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from tdxstack.dcap.certificate import CertificateFault, RevocationList, revocation_list_of, verify_raw_p256
from tdxstack.dcap.chain import Chain, Outcome, Window, chain_of, check_signing_chain
from tdxstack.dcap.collateral import Collateral
from tdxstack.dcap.enclave_identity import EnclaveIdentity
from tdxstack.dcap.signed_json import FormatFault, InvalidFault, VersionFault
from tdxstack.dcap.status import QvlStatus, VerifyFault
from tdxstack.dcap.tcb_info import TcbInfo

_SIGNATURE_DIGITS = 128
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Documents:
    """Parsed collateral with the outcome of QVL's ``VerifyTCBInfo`` and ``VerifyEnclaveIdentity``.

    A part that cannot be read is None; why stands in the outcome or fault beside it.
    """

    root_crl: RevocationList | None
    pck_crl: RevocationList | None
    crl_fault: str
    tcb_info: TcbInfo | None
    tcb_info_outcome: Outcome
    identity: EnclaveIdentity | None
    identity_outcome: Outcome
    tcb_chain: Chain | None
    identity_chain: Chain | None

    @classmethod
    def check(cls, collateral: Collateral, roots: frozenset[bytes]) -> Documents:
        """Parse and check; ``roots`` are the DER of trusted roots. Never raises: faults become outcomes."""
        root_crl, root_fault = _crl(collateral.root_ca_crl, "root_ca_crl")
        pck_crl, pck_fault = _crl(collateral.pck_crl, "pck_crl")
        signers = _Signers(root_crl, root_fault, roots)
        info, info_outcome = _tcb_info(collateral, signers)
        identity, identity_outcome = _identity(collateral, signers)
        return cls(
            root_crl=root_crl,
            pck_crl=pck_crl,
            crl_fault=root_fault or pck_fault,
            tcb_info=info,
            tcb_info_outcome=info_outcome,
            identity=identity,
            identity_outcome=identity_outcome,
            tcb_chain=signers.chains.get(collateral.tcb_info_issuer_chain),
            identity_chain=signers.chains.get(collateral.qe_identity_issuer_chain),
        )


def utf8(text: str) -> bytes:
    """Bytes of a text from JSON, which may hold lone surrogates."""
    return text.encode("utf-8", "surrogatepass")


def _octets(signature: str) -> bytes:
    """The 64 bytes; zeros, which sign nothing, for what is not hexadecimal."""
    try:
        return bytes.fromhex(signature) if signature.isalnum() else bytes(64)
    except ValueError:
        return bytes(64)


def _crl(text: str, name: str) -> tuple[RevocationList | None, str]:
    try:
        return revocation_list_of(text), ""
    except CertificateFault as fault:
        return None, f"{name}: {fault}"


def _document(
    read: Callable[[str], T], text: str, signature: str, format_status: QvlStatus, invalid_status: QvlStatus
) -> tuple[T | None, Outcome | None]:
    try:
        document = read(text)
        if len(signature) != _SIGNATURE_DIGITS:
            raise InvalidFault("signature: not 64 bytes in hexadecimal")
    except FormatFault as fault:
        return None, Outcome(format_status, str(fault))
    except VersionFault as fault:
        return None, Outcome(QvlStatus.SGX_ENCLAVE_IDENTITY_UNSUPPORTED_VERSION, str(fault))
    except ValueError as fault:
        return None, Outcome(invalid_status, str(fault))
    return document, None


class _Signers:
    """Signing chains, each parsed and checked once: TCB info and QE identity mostly come with the same one."""

    def __init__(self, root_crl: RevocationList | None, crl_fault: str, roots: frozenset[bytes]) -> None:
        self._root_crl = root_crl
        self._crl_fault = crl_fault
        self._roots = roots
        self._checked: dict[str, Outcome] = {}
        self.chains: dict[str, Chain] = {}

    def outcome(self, body: str, signature: str, pem: str, *, bad_signature: QvlStatus, expiry: Window) -> Outcome:
        """The step's outcome for one document."""
        if pem not in self._checked:
            self._checked[pem] = self._check(pem)
        chain_outcome = self._checked[pem]
        if chain_outcome.status is not QvlStatus.OK:
            return chain_outcome
        signer = self.chains[pem].topmost
        if signer is None or not verify_raw_p256(signer.key, _octets(signature), utf8(body)):
            return Outcome(bad_signature, f"{expiry.item}: the signature is not over this text by this key")
        detail = f"{expiry.item} signed by {signer.subject.common_name}"
        return Outcome(QvlStatus.OK, detail, (*chain_outcome.windows, expiry))

    def _check(self, pem: str) -> Outcome:
        try:
            chain = chain_of(utf8(pem))
            self.chains[pem] = chain
            if len(chain.certificates) != 2:
                raise VerifyFault(
                    QvlStatus.UNSUPPORTED_CERT_FORMAT, f"{len(chain.certificates)} certificates where 2 belong"
                )
            if self._root_crl is None:
                raise VerifyFault(QvlStatus.SGX_CRL_UNSUPPORTED_FORMAT, self._crl_fault)
            _, windows = check_signing_chain(chain, self._root_crl, self._roots)
        except VerifyFault as fault:
            return Outcome(fault.status, fault.detail)
        return Outcome(QvlStatus.OK, "", windows)


def _tcb_info(collateral: Collateral, signers: _Signers) -> tuple[TcbInfo | None, Outcome]:
    info, fault = _document(
        TcbInfo.from_json,
        collateral.tcb_info,
        collateral.tcb_info_signature,
        QvlStatus.SGX_TCB_INFO_UNSUPPORTED_FORMAT,
        QvlStatus.SGX_TCB_INFO_INVALID,
    )
    return info, fault or signers.outcome(
        collateral.tcb_info,
        collateral.tcb_info_signature,
        collateral.tcb_info_issuer_chain,
        bad_signature=QvlStatus.TCB_INFO_INVALID_SIGNATURE,
        expiry=Window("TCB info", QvlStatus.SGX_TCB_INFO_EXPIRED, None, info.next_update if info else 0),
    )


def _identity(collateral: Collateral, signers: _Signers) -> tuple[EnclaveIdentity | None, Outcome]:
    identity, fault = _document(
        EnclaveIdentity.from_json,
        collateral.qe_identity,
        collateral.qe_identity_signature,
        QvlStatus.SGX_ENCLAVE_IDENTITY_UNSUPPORTED_FORMAT,
        QvlStatus.SGX_ENCLAVE_IDENTITY_INVALID,
    )
    ends = identity.next_update if identity else 0
    return identity, fault or signers.outcome(
        collateral.qe_identity,
        collateral.qe_identity_signature,
        collateral.qe_identity_issuer_chain,
        bad_signature=QvlStatus.SGX_ENCLAVE_IDENTITY_INVALID_SIGNATURE,
        expiry=Window("QE identity", QvlStatus.SGX_ENCLAVE_IDENTITY_EXPIRED, None, ends),
    )

"""Certificate chains: roles, issuers, trust and revocation, in QVL 1.27's order.

``PckCertVerifier``, ``TCBSigningChain``, ``PckCrlVerifier``. What depends on the clock is not judged here but kept as
deadlines, so that a chain is checked once and its expiry at every call.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import NamedTuple

from tdxstack.dcap.certificate import (
    Certificate,
    CertificateFault,
    MissingExtensions,
    RevocationList,
    certificate_of,
    forget_certificates,
    split_pem,
)
from tdxstack.dcap.status import QvlStatus, VerifyFault

#: Chains of more bytes than this are not kept; Intel's have 2 to 5 KiB.
_LONGEST_KEPT = 16 << 10
_ROOT_CN, _CA_CN, _PCK_CN, _SIGNING_CN = "SGX Root CA", "CA", "SGX PCK Certificate", "SGX TCB Signing"


class Window(NamedTuple):
    """When something is valid: ``start <= now <= end``, in Unix seconds, and the status outside of it.

    ``start`` is None where QVL checks no start (certificates, documents).
    """

    item: str
    status: QvlStatus
    start: int | None
    end: int

    def holds(self, now: int) -> bool:
        """Whether ``now`` is inside."""
        return now <= self.end and (self.start is None or self.start <= now)


class Outcome(NamedTuple):
    """Result of a step that does not depend on the clock, and the windows that do, in the order they are judged."""

    status: QvlStatus
    detail: str
    windows: tuple[Window, ...] = ()

    def at(self, now: int) -> tuple[QvlStatus, str]:
        """Status and detail at ``now``, in Unix seconds."""
        if self.status is QvlStatus.OK:
            for window in self.windows:
                if not window.holds(now):
                    early = window.start is not None and now < window.start
                    return window.status, f"{window.item} is {'not valid yet' if early else 'expired'}"
        return self.status, self.detail


class Chain:
    """A parsed chain in any order. Raises VerifyFault on construction, with QVL's guess at the certificate."""

    def __init__(self, text: bytes) -> None:
        try:
            ders = split_pem(text)
        except CertificateFault as fault:
            raise VerifyFault(QvlStatus.UNSUPPORTED_CERT_FORMAT, str(fault)) from None
        if not ders:
            raise VerifyFault(QvlStatus.UNSUPPORTED_CERT_FORMAT, "no PEM certificate")
        certificates: list[Certificate] = []
        for der in ders:
            try:
                certificates.append(certificate_of(der))
            except MissingExtensions as fault:
                raise VerifyFault(_guess(len(certificates), len(ders)), str(fault)) from None
            except CertificateFault as fault:
                raise VerifyFault(QvlStatus.UNSUPPORTED_CERT_FORMAT, str(fault)) from None
        self.certificates = tuple(certificates)
        for certificate in certificates:
            if _PCK_CN in certificate.subject.common_name:
                _check_sgx(certificate)
        self.root = next((c for c in reversed(certificates) if c.self_issued), None)
        self.pck = next((c for c in reversed(certificates) if _PCK_CN in c.subject.common_name), None)

    @cached_property
    def intermediate(self) -> Certificate | None:
        """The first certificate that is not self-issued and whose CN contains ``CA``."""
        return next((c for c in self.certificates if not c.self_issued and _CA_CN in c.subject.common_name), None)

    @cached_property
    def topmost(self) -> Certificate | None:
        """The last certificate that signs no other one."""
        return next((c for c in reversed(self.certificates) if not self._signs_another(c)), None)

    def _signs_another(self, certificate: Certificate) -> bool:
        subject = certificate.subject
        return any(not c.subject.same_as(subject) and c.issuer.same_as(subject) for c in self.certificates)


@lru_cache(maxsize=64)
def _short_chain(text: bytes) -> Chain:
    return Chain(text)


def chain_of(text: bytes) -> Chain:
    """The chain of this PEM; issuers' chains are seen again and again. Raises as :class:`Chain` does.

    Only what the text itself says is kept: trust, revocation and expiry are judged anew by those who ask.
    """
    return _short_chain(text) if len(text) <= _LONGEST_KEPT else Chain(text)


def forget_chains() -> None:
    """Forget every chain, certificate and CRL seen so far."""
    _short_chain.cache_clear()
    forget_certificates()


def _check_sgx(certificate: Certificate) -> None:
    """What is named a PCK certificate has to have the SGX extension, in whatever chain it is."""
    try:
        _ = certificate.sgx
    except MissingExtensions as fault:
        raise VerifyFault(QvlStatus.SGX_PCK_INVALID_EXTENSIONS, str(fault)) from None
    except CertificateFault as fault:
        raise VerifyFault(QvlStatus.UNSUPPORTED_CERT_FORMAT, str(fault)) from None


def _guess(position: int, total: int) -> QvlStatus:
    if position == 0:
        return QvlStatus.SGX_ROOT_CA_INVALID_EXTENSIONS
    if position == 1 and total == 2:
        return QvlStatus.SGX_TCB_SIGNING_CERT_INVALID_EXTENSIONS
    if position == 1:
        return QvlStatus.SGX_INTERMEDIATE_CA_INVALID_EXTENSIONS
    return QvlStatus.SGX_PCK_INVALID_EXTENSIONS


def _require(condition: bool, status: QvlStatus, detail: str) -> None:
    if not condition:
        raise VerifyFault(status, detail)


def _root(chain: Chain) -> Certificate:
    root = chain.root
    if root is None or _ROOT_CN not in root.subject.common_name:
        raise VerifyFault(QvlStatus.SGX_ROOT_CA_MISSING, f"no certificate is self-issued and named {_ROOT_CN!r}")
    return root


def check_pck_chain(
    chain: Chain, root_crl: RevocationList, pck_crl: RevocationList, roots: frozenset[bytes]
) -> Outcome:
    """``VerifyPCKCertificate`` without the clock; ``roots`` are the DER of trusted roots. Raises VerifyFault."""
    root = _root(chain)
    intermediate, pck = chain.intermediate, chain.pck
    if intermediate is None:
        raise VerifyFault(QvlStatus.SGX_INTERMEDIATE_CA_MISSING, "no certificate is that of an intermediate CA")
    if pck is None:
        raise VerifyFault(QvlStatus.SGX_PCK_MISSING, f"no certificate is named {_PCK_CN!r}")
    _require(_self_signed(root, roots), QvlStatus.SGX_ROOT_CA_INVALID_ISSUER, "the root is not signed by itself")
    _require(
        intermediate.signed_by(root), QvlStatus.SGX_INTERMEDIATE_CA_INVALID_ISSUER, "the root did not sign the CA"
    )
    _require(pck.signed_by(intermediate), QvlStatus.SGX_PCK_INVALID_ISSUER, "the CA did not sign the PCK certificate")
    _require(root.der in roots, QvlStatus.SGX_PCK_CERT_CHAIN_UNTRUSTED, "the chain's root is not a trusted root")
    check_crl(root_crl, root, "root CA CRL")
    check_crl(pck_crl, intermediate, "PCK CRL")
    revoked = root_crl.revokes(intermediate)
    _require(not revoked, QvlStatus.SGX_INTERMEDIATE_CA_REVOKED, "the intermediate CA is in the root CA CRL")
    _require(not pck_crl.revokes(pck), QvlStatus.SGX_PCK_REVOKED, "the PCK certificate is in the PCK CRL")
    expired = QvlStatus.SGX_PCK_CERT_CHAIN_EXPIRED
    names = ("root CA certificate", "PCK CA certificate", "PCK certificate")
    certificates = (root, intermediate, pck)
    windows = [Window(name, expired, None, c.not_after) for name, c in zip(names, certificates, strict=True)]
    windows += [crl_window(root_crl, "root CA CRL"), crl_window(pck_crl, "PCK CRL")]
    return Outcome(QvlStatus.OK, f"{pck.subject.common_name} of {pck.issuer.common_name}", tuple(windows))


def check_signing_chain(
    chain: Chain, root_crl: RevocationList, roots: frozenset[bytes]
) -> tuple[Certificate, tuple[Window, ...]]:
    """``TCBSigningChain::verify``: the certificate that signs the documents, and its windows. Raises VerifyFault."""
    root = _root(chain)
    _require(_self_signed(root, roots), QvlStatus.SGX_ROOT_CA_INVALID_ISSUER, "the root is not signed by itself")
    signer = chain.topmost
    if signer is None or _SIGNING_CN not in signer.subject.common_name:
        raise VerifyFault(QvlStatus.SGX_TCB_SIGNING_CERT_MISSING, f"no certificate is named {_SIGNING_CN!r}")
    _require(
        signer.signed_by(root),
        QvlStatus.SGX_TCB_SIGNING_CERT_INVALID_ISSUER,
        "the root did not sign the TCB signing certificate",
    )
    check_crl(root_crl, root, "root CA CRL")
    _require(
        not root_crl.revokes(signer),
        QvlStatus.SGX_TCB_SIGNING_CERT_REVOKED,
        "the TCB signing certificate is in the root CA CRL",
    )
    _require(
        root.der in roots, QvlStatus.SGX_TCB_SIGNING_CERT_CHAIN_UNTRUSTED, "the chain's root is not a trusted root"
    )
    expired = QvlStatus.SGX_SIGNING_CERT_CHAIN_EXPIRED
    return signer, (
        Window("root CA certificate", expired, None, root.not_after),
        Window("TCB signing certificate", expired, None, signer.not_after),
        crl_window(root_crl, "root CA CRL"),
    )


def _self_signed(root: Certificate, roots: frozenset[bytes]) -> bool:
    """A trusted root was checked when trust was put in it; another one is checked here."""
    return root.der in roots or root.signed_by(root)


def check_crl(crl: RevocationList, issuer: Certificate, name: str) -> None:
    """``PckCrlVerifier::verify``. Raises VerifyFault."""
    if crl.issuer.der != issuer.subject.der:
        raise VerifyFault(QvlStatus.SGX_CRL_UNKNOWN_ISSUER, f"{name}: issued by {crl.issuer.common_name!r}")
    if not crl.has_authority_key:
        raise VerifyFault(QvlStatus.SGX_CRL_INVALID_EXTENSIONS, f"{name}: no authority key identifier")
    if not crl.signed_by(issuer):
        raise VerifyFault(
            QvlStatus.SGX_CRL_INVALID_SIGNATURE, f"{name}: not signed by {issuer.subject.common_name!r}"
        )


def crl_window(crl: RevocationList, name: str) -> Window:
    """When the CRL is valid; one from the future counts as expired too."""
    return Window(name, QvlStatus.SGX_CRL_EXPIRED, crl.this_update, crl.next_update)

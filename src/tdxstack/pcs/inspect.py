"""What a piece of collateral says of itself: dates, evaluation number, and whether its signature holds.

This is not verification of a quote (``tdxstack.dcap`` judges that); it decides what a cache may keep and for how
long, and what a service may take from strangers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from tdxstack.dcap import Collateral
from tdxstack.dcap.certificate import (
    Certificate,
    CertificateFault,
    MissingExtensions,
    RevocationList,
    split_pem,
    verify_p256,
    verify_raw_p256,
)
from tdxstack.dcap.signed_json import DocumentFault, date, load_object, signed_body, unsigned
from tdxstack.errors import CollateralError
from tdxstack.pcs.source import Crl, SignedDocument

TCB_INFO = "tcbInfo"
IDENTITY = "enclaveIdentity"
EVALUATION_NUMBERS = "tcbEvaluationDataNumbers"


@dataclass(frozen=True, slots=True)
class Span:
    """When something holds, in Unix seconds: issued at ``start``, to be replaced at ``end``."""

    start: int
    end: int

    def holds(self, now: float) -> bool:
        """Whether ``now`` is inside."""
        return self.start <= now <= self.end

    @classmethod
    def common(cls, spans: Iterable[Span]) -> Span:
        """When all hold at once (``start`` is after ``end`` if never)."""
        every = list(spans)
        return cls(max(span.start for span in every), min(span.end for span in every))


@dataclass(frozen=True, slots=True)
class Facts:
    """What a signed document says of itself. ``text`` is the raw signed body, ``number`` 0 where it has none."""

    text: str
    signature: str
    span: Span
    number: int


def facts(document: SignedDocument, member: str) -> Facts:
    """Read a response with the signed ``member``, e.g. ``tcbInfo``.

    Raises:
        CollateralError: it is no such response.
    """
    try:
        text, signature = signed_body(document.body.decode("utf-8"), member)
        members = load_object(text, member)
        span = Span(date(members, "issueDate"), date(members, "nextUpdate"))
        number = unsigned(members, "tcbEvaluationDataNumber") if "tcbEvaluationDataNumber" in members else 0
    except (DocumentFault, UnicodeDecodeError, ValueError) as fault:
        raise CollateralError(member, f"{member}: not a signed document: {fault}") from None
    return Facts(text, signature, span, number)


def response(member: str, text: str, signature: str) -> bytes:
    """The response that holds a signed body: the body's text is put in as it stands."""
    return f'{{"{member}":{text},"signature":"{signature}"}}'.encode("utf-8", "surrogatepass")


def chain(pem: str, item: str) -> tuple[Certificate, ...]:
    """The certificates of a PEM chain.

    Raises:
        CollateralError: there is none, or one that cannot be read.
    """
    try:
        found = tuple(Certificate(der) for der in split_pem(pem.encode("utf-8", "surrogatepass")))
    except (CertificateFault, MissingExtensions) as fault:
        raise CollateralError(item, f"{item}: certificate chain: {fault}") from None
    if not found:
        raise CollateralError(item, f"{item}: no certificate chain")
    return found


def revocation_list(crl: Crl, item: str) -> RevocationList:
    """Parse a CRL.

    Raises:
        CollateralError: it is none.
    """
    try:
        return RevocationList(crl.der)
    except CertificateFault as fault:
        raise CollateralError(item, f"{item}: not a revocation list: {fault}") from None


def chain_span(pem: str, item: str) -> Span:
    """When all certificates of a chain are valid. Raises CollateralError."""
    return Span.common(Span(one.not_before, one.not_after) for one in chain(pem, item))


def root_of(pem: str, item: str) -> Certificate:
    """The self-signed certificate at the top of a chain whose every other certificate is signed by the next.

    Raises:
        CollateralError: the chain does not hold together.
    """
    certificates = chain(pem, item)
    for below, above in pairwise(certificates):
        if not below.signed_by(above):
            raise CollateralError(
                item, f"{item}: {below.subject.common_name!r} is not signed by the next certificate"
            )
    root = certificates[-1]
    if not root.self_issued or not root.signed_by(root):
        raise CollateralError(item, f"{item}: the chain does not end in a root certificate")
    return root


def require_trusted(pem: str, roots: frozenset[bytes], item: str) -> None:
    """Raises CollateralError unless the chain ends in one of ``roots`` (DER); any root will do if there are none."""
    root = root_of(pem, item)
    if roots and root.der not in roots:
        raise CollateralError(item, f"{item}: signed under {root.subject.common_name!r}, which is not a trusted root")


def require_signed(document: SignedDocument, member: str, roots: frozenset[bytes], item: str) -> Facts:
    """Read a document whose signature and chain hold.

    Raises:
        CollateralError: they do not.
    """
    found = facts(document, member)
    require_trusted(document.issuer_chain, roots, item)
    signer = chain(document.issuer_chain, item)[0]
    try:
        signature = bytes.fromhex(found.signature)
    except ValueError:
        signature = b""
    text = found.text.encode("utf-8", "surrogatepass")
    if len(signature) != 64 or not verify_raw_p256(signer.key, signature, text):
        raise CollateralError(item, f"{item}: the signature does not hold")
    return found


def require_crl_signed(crl: Crl, issuer: Certificate, item: str) -> RevocationList:
    """Parse a CRL that ``issuer`` signed.

    Raises:
        CollateralError: it did not.
    """
    parsed = revocation_list(crl, item)
    if parsed.issuer.der != issuer.subject.der or not verify_p256(issuer.key, parsed.signature, parsed.tbs):
        raise CollateralError(item, f"{item}: not signed by {issuer.subject.common_name!r}")
    return parsed


def collateral_span(collateral: Collateral) -> Span:
    """When every part of a set holds: both documents, both CRLs and all certificates.

    Raises:
        CollateralError: a part cannot be read.
    """
    spans = [
        _body_span(collateral.tcb_info, "tcb_info"),
        _body_span(collateral.qe_identity, "qe_identity"),
        chain_span(collateral.tcb_info_issuer_chain, "tcb_info_issuer_chain"),
        chain_span(collateral.qe_identity_issuer_chain, "qe_identity_issuer_chain"),
    ]
    for name, text in (("root_ca_crl", collateral.root_ca_crl), ("pck_crl", collateral.pck_crl)):
        try:
            parsed = RevocationList.from_text(text)
        except CertificateFault as fault:
            raise CollateralError(name, f"{name}: {fault}") from None
        spans.append(Span(parsed.this_update, parsed.next_update))
    for name, pem in (
        ("pck_crl_issuer_chain", collateral.pck_crl_issuer_chain),
        ("pck_certificate_chain", collateral.pck_certificate_chain),
    ):
        if pem:
            spans.append(chain_span(pem, name))
    return Span.common(spans)


def _body_span(text: str, name: str) -> Span:
    try:
        members = load_object(text, name)
        return Span(date(members, "issueDate"), date(members, "nextUpdate"))
    except DocumentFault as fault:
        raise CollateralError(name, f"{name}: {fault}") from None

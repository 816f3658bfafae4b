"""``Verifier``: collateral and roots checked once, quotes judged against them at any time."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from tdxstack.dcap.certificate import Certificate
from tdxstack.dcap.chain import Chain, Outcome, chain_of, check_pck_chain
from tdxstack.dcap.collateral import Collateral
from tdxstack.dcap.documents import Documents, utf8
from tdxstack.dcap.quote_check import (
    PckChain,
    Platform,
    QuoteOutcome,
    QuoteStep,
    StepFault,
    certification_of,
    check_platform,
    check_quote,
    find_leaf,
)
from tdxstack.dcap.remembered import Remembered
from tdxstack.dcap.roots import Root, parse_roots
from tdxstack.dcap.status import QvlStatus, VerifyFault
from tdxstack.dcap.verification import Judgement, Qvl, Verification
from tdxstack.errors import WireError
from tdxstack.wire.quote import CertificationData, CertificationType, QeCertification, Quote

_PCK_CHAIN_LENGTH = 3
#: Platforms and chains kept; each is some kilobytes.
_PLATFORMS_KEPT = 512
_BEGIN = b"-----BEGIN CERTIFICATE-----"
_PEM_RUN = re.compile(rb"-----BEGIN CERTIFICATE-----.*-----END CERTIFICATE-----", re.DOTALL)


class Verifier:
    """Verifies quotes against one set of collateral.

    The collateral is parsed and its signatures are checked on construction; its expiry is judged by the clock that is
    given with each quote. Faults of the collateral are no errors here: they show in every verification. A Verifier
    can be used by many threads at once and can be pickled.

    Args:
        collateral: as :meth:`Collateral.from_json` gives it.
        roots: trusted root certificates, PEM, DER or parsed, or the word ``intel``; one of them or several.

    Raises:
        UsageError: a root is not a root certificate.
    """

    def __init__(self, collateral: Collateral, roots: Root | Iterable[Root] = "intel") -> None:
        self.collateral = collateral
        self.roots = parse_roots(roots)
        self._trusted = frozenset(root.der for root in self.roots)
        self.documents = Documents.check(collateral, self._trusted)
        self._chains: Remembered[bytes, PckChain] = Remembered(_PLATFORMS_KEPT)
        self._platforms: Remembered[_Keyed, Platform] = Remembered(_PLATFORMS_KEPT)

    def verify(self, quote: bytes, *, now: int) -> Verification:
        """Judge one quote at ``now`` (Unix seconds). Never raises for what is in the quote or the collateral."""
        raw = quote if type(quote) is bytes else memoryview(quote).tobytes()
        judgement, parsed = self.judge(raw, now)
        verification = Verification(raw, now, judgement, self)
        verification.__dict__["quote"] = parsed  # already read: fill the cached property
        return verification

    def verify_many(self, quotes: Iterable[bytes], *, now: int, workers: int | None = None) -> list[Verification]:
        """Judge many quotes at ``now`` (Unix seconds) on all cores, or with ``workers`` processes.

        Worth its while from some hundreds of quotes on. To keep the processes from one call to the next, use
        :class:`tdxstack.dcap.parallel.VerifierPool`.
        """
        from tdxstack.dcap.parallel import VerifierPool

        known = [memoryview(quote).tobytes() for quote in quotes]
        with VerifierPool(self, workers, known) as pool:
            return list(pool.verify_known(now=now))

    def forget(self) -> None:
        """Forget every platform seen so far; what is known of the collateral stays."""
        self._platforms.clear()
        self._chains.clear()

    def judge(self, raw: bytes, now: int) -> tuple[Judgement, Quote | None]:
        """What :meth:`verify` is made of: the judgement, and the quote if it could be read."""
        try:
            quote = Quote.from_bytes(raw)
        except WireError as fault:
            return self._unreadable(raw, str(fault), now, fault.offset), None
        try:
            certification = certification_of(quote, raw)
        except StepFault as fault:
            return self._unreadable(raw, fault.detail, now, None), quote
        # What certifies the attestation key lies between the quote's signature and the trailing bytes.
        signed = raw[: quote.signed_size]
        certified = raw[len(signed) + 68 : len(raw) - len(quote.trailing)]
        platform = self._platforms.get(_Keyed(certified, quote, certification), self._check_platform)
        return self._judgement(platform.pck, check_quote(quote, signed, platform, self.documents), now), quote

    def pck_chain_of(self, raw: bytes) -> PckChain:
        """The PCK chain by which a quote is judged; of one that cannot be read, whatever certificates it holds."""
        try:
            certification = certification_of(Quote.from_bytes(raw), raw)
        except (WireError, StepFault):
            found = _PEM_RUN.search(raw)
            return self._pck_chain(found[0] if found else utf8(self.collateral.pck_certificate_chain))
        return self._pck_chain(self._chain_text(certification.certification))

    def __getstate__(self) -> dict[str, Any]:
        return {"collateral": self.collateral, "roots": [root.der for root in self.roots]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["collateral"], state["roots"])  # type: ignore[misc]

    def _unreadable(self, raw: bytes, detail: str, now: int, offset: int | None) -> Judgement:
        outcome = QuoteOutcome(QvlStatus.UNSUPPORTED_QUOTE_FORMAT, QuoteStep.FORMAT, detail)
        return self._judgement(self.pck_chain_of(raw), outcome, now, offset)

    def _judgement(self, pck: PckChain, outcome: QuoteOutcome, now: int, offset: int | None = None) -> Judgement:
        documents = self.documents
        pck_status, pck_detail = pck.outcome.at(now)
        info_status, info_detail = documents.tcb_info_outcome.at(now)
        identity_status, identity_detail = documents.identity_outcome.at(now)
        qvl = Qvl(pck_status, info_status, identity_status, outcome.status)
        return Judgement(qvl, (pck_detail, info_detail, identity_detail), outcome, offset)

    def _check_platform(self, key: _Keyed) -> Platform:
        pck = self._pck_chain(self._chain_text(key.certification.certification))
        return check_platform(key.quote, key.certification, pck, self.documents)

    def _chain_text(self, certification: CertificationData) -> bytes:
        """PEM of the PCK chain: the quote's own; from the collateral only what the quote does not hold."""
        if certification.type == CertificationType.PCK_CHAIN:
            return certification.data
        held = certification.data.count(_BEGIN)
        if certification.type == CertificationType.PCK_LEAF and held == 1:
            leaf = certification.data.partition(b"\0")[0]
            return leaf.rstrip() + b"\n" + utf8(self.collateral.pck_crl_issuer_chain)
        return utf8(self.collateral.pck_certificate_chain) or (certification.data if held else b"")

    def _pck_chain(self, text: bytes) -> PckChain:
        return self._chains.get(text, self._check_pck_chain)

    def _check_pck_chain(self, text: bytes) -> PckChain:
        chain: Chain | None = None
        if not text:
            detail = "the quote holds no PCK certificate chain and the collateral neither"
            return PckChain(None, Outcome(QvlStatus.UNSUPPORTED_CERT_FORMAT, detail), missing=True)
        leaf: Certificate | None = None
        leaf_fault: VerifyFault | None = None
        try:
            chain = chain_of(text)
            leaf, _ = find_leaf(text, chain)
            if len(chain.certificates) != _PCK_CHAIN_LENGTH:
                raise VerifyFault(
                    QvlStatus.UNSUPPORTED_CERT_FORMAT, f"{len(chain.certificates)} certificates where 3 belong"
                )
            root_crl, pck_crl = self.documents.root_crl, self.documents.pck_crl
            if root_crl is None or pck_crl is None:
                raise VerifyFault(QvlStatus.SGX_CRL_UNSUPPORTED_FORMAT, self.documents.crl_fault)
            return PckChain(chain, check_pck_chain(chain, root_crl, pck_crl, self._trusted), leaf)
        except VerifyFault as fault:
            if chain is None:
                leaf, leaf_fault = find_leaf(text, None)
            return PckChain(chain, Outcome(fault.status, fault.detail), leaf, leaf_fault)


class _Keyed:
    """A quote's certification as a key: equal bytes, version and TEE type make equal keys."""

    __slots__ = ("_key", "certification", "quote")

    def __init__(self, certified: bytes, quote: Quote, certification: QeCertification) -> None:
        self._key = (certified, quote.header.version, quote.header.tee_type)
        self.quote = quote
        self.certification = certification

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Keyed) and self._key == other._key

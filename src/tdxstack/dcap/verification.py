"""What came of verifying a quote: Intel's four statuses, the verdict on the TCB, the steps, and supplemental data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from tdxstack.dcap.documents import Documents
from tdxstack.dcap.quote_check import PckChain, QuoteOutcome, QuoteStep
from tdxstack.dcap.status import EXPIRED, STATUS_OF_TCB, QvlStatus, TcbStatus
from tdxstack.dcap.supplemental import Expiry, Supplemental, expiries, supplemental
from tdxstack.dcap.tcb import TcbVerdict
from tdxstack.errors import WireError
from tdxstack.wire.quote import Quote
from tdxstack.wire.sgx_report import SgxReportBody

if TYPE_CHECKING:
    from tdxstack.dcap.verifier import Verifier

_NOT_FINAL = frozenset(STATUS_OF_TCB.values()) - {QvlStatus.TCB_REVOKED}


class Qvl(NamedTuple):
    """The statuses of QVL's four calls, each judged by itself."""

    pck_certificate: QvlStatus
    tcb_info: QvlStatus
    enclave_identity: QvlStatus
    quote: QvlStatus


class Step(NamedTuple):
    """A step: its name, ``pass``, ``fail``, ``expired``, ``warn`` or ``skip``, and what there is to say."""

    name: str
    outcome: str
    detail: str


class Judgement(NamedTuple):
    """What judging a quote gives; small, and of plain values, so that worker processes can hand it over."""

    qvl: Qvl
    #: What there is to say to each of the first three statuses.
    details: tuple[str, str, str]
    outcome: QuoteOutcome
    #: Where in the quote the format is broken, in bytes from its start; None if it is not.
    fault_offset: int | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Verification:
    """The result for one quote at one time (Unix seconds)."""

    raw: bytes
    now: int
    judgement: Judgement
    verifier: Verifier

    def __repr__(self) -> str:
        return f"Verification(status={self.status!r}, authentic={self.authentic}, now={self.now})"

    @property
    def qvl(self) -> Qvl:
        """The statuses of Intel's four calls."""
        return self.judgement.qvl

    @property
    def outcome(self) -> QuoteOutcome:
        """Where judging the quote itself ended."""
        return self.judgement.outcome

    @property
    def documents(self) -> Documents:
        """The checked collateral."""
        return self.verifier.documents

    @cached_property
    def quote(self) -> Quote | None:
        """The quote, or None if it cannot be read."""
        try:
            return Quote.from_bytes(self.raw)
        except WireError:
            return None

    @cached_property
    def pck(self) -> PckChain:
        """The PCK chain that the quote was judged by."""
        return self.verifier.pck_chain_of(self.raw)

    @property
    def authentic(self) -> bool:
        """Whether all signatures hold up to a trusted root, and the platform's TCB is known and not revoked.

        Expired collateral does not change it, see :attr:`expired`; nor does policy.
        """
        return self.qvl.quote in _NOT_FINAL and self.genuine

    @property
    def genuine(self) -> bool:
        """Whether all signatures hold up to a trusted root, whatever the TCB is, and also if it is of no level."""
        three = all(status is QvlStatus.OK or status in EXPIRED for status in self.qvl[:3])
        return three and (self.verdict is not None or self.qvl.quote is QvlStatus.TCB_NOT_SUPPORTED)

    @property
    def expired(self) -> bool:
        """Whether some of the collateral is not valid at ``now``."""
        return any(status in EXPIRED for status in self.qvl)

    @property
    def missing(self) -> bool:
        """Whether something that is needed was not given: no judgement on the quote then."""
        return self.qvl.quote is QvlStatus.MISSING_PARAMETERS

    @property
    def verdict(self) -> TcbVerdict | None:
        """The TCB's levels and status, where the quote's own checks held."""
        return self.outcome.verdict

    @property
    def status(self) -> str:
        """One name for all: the first status that ends verification, else that of what is expired, else the TCB's."""
        if self.outcome.step is QuoteStep.FORMAT:
            return self.qvl.quote.value
        for status in self.qvl[:3]:
            if status is not QvlStatus.OK and status not in EXPIRED:
                return status.value
        if self.qvl.quote not in _NOT_FINAL:
            return self.qvl.quote.value
        for status in self.qvl[:3]:
            if status is not QvlStatus.OK:
                return status.value
        return self.verdict.launch_status.value if self.verdict else self.qvl.quote.value

    @property
    def launch_status(self) -> TcbStatus | None:
        """Status of the TCB that the TD was started under."""
        return self.verdict.launch_status if self.verdict else None

    @property
    def current_status(self) -> TcbStatus | None:
        """Status of the TCB that the platform runs now."""
        return self.verdict.current_status if self.verdict else None

    @property
    def advisories(self) -> tuple[str, ...]:
        """Intel's advisories on the launch TCB."""
        return self.verdict.launch.advisories if self.verdict else ()

    @property
    def tcb_date(self) -> int | None:
        """Date of the launch TCB, in Unix seconds: the earliest of its parts'."""
        return self.verdict.launch.tcb_date if self.verdict else None

    @property
    def software(self) -> bool:
        """Whether a certificate of the chain says that it is a software platform's."""
        certificates = self.pck.chain.certificates if self.pck.chain else ()
        names = (name for c in certificates for name in (*c.subject.attributes, *c.issuer.attributes))
        return any("software" in name.lower() for name in names)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps in order, with outcome and detail."""
        named = zip(Qvl._fields[:3], self.qvl[:3], self.judgement.details, strict=True)
        calls = [Step(name, _outcome(status), _detail(status, detail)) for name, status, detail in named]
        quote = _quote_steps(self.outcome, sgx=self.quote is not None and isinstance(self.quote.body, SgxReportBody))
        return (quote[0], *calls, *quote[1:])

    @property
    def expiries(self) -> tuple[Expiry, ...]:
        """Validity of the items (of eight) that could be read."""
        return expiries(self.documents, self.pck, self.verifier.collateral.pck_crl_issuer_chain)

    @cached_property
    def supplemental(self) -> Supplemental:
        """Supplemental data, of what could be read."""
        tee_type = int(self.quote.header.tee_type) if self.quote else None
        return supplemental(self.expiries, self.documents, self.pck, self.verdict, tee_type)


def _outcome(status: QvlStatus) -> str:
    if status is QvlStatus.OK:
        return "pass"
    return "expired" if status in EXPIRED else "fail"


def _detail(status: QvlStatus, detail: str) -> str:
    return detail if status is QvlStatus.OK else f"{status.value}: {detail}" if detail else status.value


def _quote_steps(outcome: QuoteOutcome, *, sgx: bool) -> list[Step]:
    """The steps of judging the quote; an SGX quote has no TDX module."""
    steps = []
    order = list(QuoteStep)
    ended = order.index(outcome.step)
    for index, step in enumerate(order):
        if index > ended or (sgx and step is QuoteStep.TDX_MODULE):
            steps.append(Step(step.value, "skip", ""))
        elif index < ended:
            steps.append(Step(step.value, "pass", ""))
        elif outcome.verdict is None:
            steps.append(Step(step.value, "fail", _detail(outcome.status, outcome.detail)))
        else:
            good = "pass" if outcome.status is QvlStatus.OK else "warn"
            bad = outcome.status is QvlStatus.TCB_REVOKED
            steps.append(Step(step.value, "fail" if bad else good, outcome.detail))
    return steps

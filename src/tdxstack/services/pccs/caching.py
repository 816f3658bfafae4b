"""What is served, and what is fetched when: the modes LAZY, REQ and OFFLINE.

* LAZY: what is asked for and absent, or has expired, is fetched from upstream.
* REQ: reading never goes upstream; registering a platform does.
* OFFLINE: nothing goes upstream; registrations wait for an administrator who brings the collateral.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from enum import StrEnum
from typing import TypeVar

from tdxstack.errors import CollateralAbsent, CollateralError
from tdxstack.pcs.source import Ca, Enclave, EvaluationSet, Source, Tee
from tdxstack.services.metrics import Metrics
from tdxstack.services.pccs.admission import API_V3, API_V4, Admission, tcb_name
from tdxstack.services.pccs.records import Document
from tdxstack.services.pccs.refusal import Refusal, Status
from tdxstack.services.pccs.schema import Kind
from tdxstack.services.pccs.store import Store

log = logging.getLogger("tdxstack.pccs")

#: For so many seconds upstream is not asked again for what it does not have, and for what it failed to give.
ABSENT_SECONDS, FAILED_SECONDS = 60, 10
#: How often strangers' requests may go upstream: so many at once, and so many a second in the long run.
BURST, PER_SECOND = 200, 10
_REMEMBERED = 4096
_NOT_FOUND = 404
_LOCKS = 64

METRICS = {
    "pccs_upstream_requests_total": ("counter", "Things asked of upstream, by result."),
}
T = TypeVar("T")


class Mode(StrEnum):
    """When upstream is asked."""

    LAZY = "LAZY"
    REQ = "REQ"
    OFFLINE = "OFFLINE"


class Upstream:
    """A source whose errors are refusals, and which is not asked again at once for what it does not give."""

    def __init__(self, source: Source | None, mode: Mode, metrics: Metrics) -> None:
        self._source = source
        self._mode = mode
        self._metrics = metrics
        self._absent: OrderedDict[str, tuple[float, Refusal]] = OrderedDict()
        self._lock = threading.Lock()
        self._allowance = float(BURST)
        self._counted = time.monotonic()

    @property
    def source(self) -> Source:
        """The source. Raises Refusal (503) where there is none."""
        if self._source is None or self._mode is Mode.OFFLINE:
            raise Refusal(Status.UNAVAILABLE, "It is OFFLINE.")
        return self._source

    def ask(self, what: str, fetch: Callable[[Source], T]) -> T:
        """Call ``fetch``. Raises Refusal: 404 for what is absent, 502 for what cannot be had or does not hold."""
        source = self.source
        try:
            found = fetch(source)
        except CollateralAbsent as error:
            self._metrics.add("pccs_upstream_requests_total", result="absent")
            if error.status not in (None, _NOT_FOUND):  # a wrong key, say: nobody is told but the log
                log.warning("%s: %s", what, error.message)
            raise Refusal(Status.NO_CACHE_DATA) from error
        except CollateralError as error:
            self._metrics.add("pccs_upstream_requests_total", result="failed")
            log.warning("%s: %s", what, error.message)
            raise Refusal(Status.PCS_ACCESS_FAILURE) from error
        self._metrics.add("pccs_upstream_requests_total", result="fetched")
        return found

    def ask_for_stranger(self, what: str, fetch: Callable[[Source], T]) -> T:
        """The same for requests without a token, which must not become a flood upstream.

        A refusal is remembered for a while, and there is a limit to all of them together (429).
        """
        with self._lock:
            known = self._absent.get(what)
            if known is None or time.monotonic() >= known[0]:
                self._count()
        if known is not None and time.monotonic() < known[0]:
            raise Refusal(known[1].status)
        try:
            return self.ask(what, fetch)
        except Refusal as refusal:
            self._remember(what, refusal)
            raise

    def _count(self) -> None:
        now = time.monotonic()
        self._allowance = min(BURST, self._allowance + (now - self._counted) * PER_SECOND)
        self._counted = now
        if self._allowance < 1:
            raise Refusal(Status.TOO_MANY_REQUESTS)
        self._allowance -= 1

    def _remember(self, what: str, refusal: Refusal) -> None:
        seconds = ABSENT_SECONDS if refusal.status is Status.NO_CACHE_DATA else FAILED_SECONDS
        with self._lock:
            self._absent[what] = (time.monotonic() + seconds, refusal)
            self._absent.move_to_end(what)
            while len(self._absent) > _REMEMBERED:
                self._absent.popitem(last=False)

    def forget(self) -> None:
        """Ask for everything again."""
        with self._lock:
            self._absent.clear()


class Collateral:
    """Documents and CRLs. Thread-safe; one thing is fetched by one thread at a time."""

    def __init__(
        self,
        store: Store,
        admission: Admission,
        mode: Mode,
        upstream: Upstream,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self.admission = admission
        self.mode = mode
        self.upstream = upstream
        self.clock = clock
        self._flights = tuple(threading.Lock() for _ in range(_LOCKS))

    def tcb_info(self, tee: Tee, fmspc: str, evaluation: EvaluationSet, version: int = API_V4) -> Document:
        """TCB info for one FMSPC (12 hexadecimal digits). Raises Refusal."""
        return self._get(Kind.TCB, tcb_name(tee, fmspc), evaluation.name, version)

    def identity(self, enclave: Enclave, evaluation: EvaluationSet, version: int = API_V4) -> Document:
        """The identity of a quoting or verification enclave. Raises Refusal."""
        return self._get(Kind.IDENTITY, enclave.value, evaluation.name, version)

    def pck_crl(self, ca: Ca) -> Document:
        """The CRL of an intermediate CA. Raises Refusal."""
        return self._get(Kind.PCK_CRL, ca.value)

    def root_ca_crl(self) -> Document:
        """The root CA's CRL. Raises Refusal."""
        return self._get(Kind.ROOT_CRL, "root")

    def crl(self, uri: str) -> Document:
        """The CRL at a distribution point that was checked against the allow-list. Raises Refusal."""
        return self._get(Kind.CRL, uri)

    def evaluation_numbers(self, tee: Tee) -> Document:
        """Which evaluation data numbers there are. Raises Refusal."""
        return self._get(Kind.NUMBERS, tee.value)

    def ensure(self, evaluation: EvaluationSet, ca: Ca) -> list[Document]:
        """Fetch what verifying quotes needs besides TCB info, where it is not here; what upstream lacks is left out.

        Args:
            ca: the CA of the platforms whose quotes are to be verified.

        Raises:
            Refusal: upstream cannot be asked.
        """
        wanted = [(Kind.ROOT_CRL, "root", ""), (Kind.PCK_CRL, ca.value, "")]
        wanted += [(Kind.IDENTITY, enclave.value, evaluation.name) for enclave in Enclave]
        found = []
        for kind, name, issue in wanted:
            kept = self.store.document(kind, API_V4, name, issue)
            if kept is not None and kept.expires >= self.clock():
                continue
            try:
                found.append(self.fetch(kind, name, issue))
            except Refusal as refusal:
                if refusal.status is not Status.NO_CACHE_DATA:
                    raise
        return found

    def fetch(self, kind: Kind, name: str, evaluation: str = "", *, stranger: bool = False) -> Document:
        """A document as upstream has it now; not kept yet. Raises Refusal."""
        ask = self.upstream.ask_for_stranger if stranger else self.upstream.ask
        return ask(f"{kind} {name} {evaluation}".strip(), lambda source: self._from(source, kind, name, evaluation))

    def _from(self, source: Source, kind: Kind, name: str, evaluation: str) -> Document:
        admit = self.admission
        if kind is Kind.TCB:
            word, fmspc = name.split("/", 1)
            tee = Tee(word)
            return admit.tcb(source.tcb_info(tee, fmspc, EvaluationSet(evaluation)), tee, fmspc, evaluation)
        if kind is Kind.IDENTITY:
            found = source.identity(Enclave(name), EvaluationSet(evaluation))
            return admit.identity(found, Enclave(name), evaluation)
        if kind is Kind.PCK_CRL:
            return admit.pck_crl(source.pck_crl(Ca(name)), Ca(name))
        if kind is Kind.ROOT_CRL:
            return admit.root_crl(source.root_ca_crl())
        if kind is Kind.NUMBERS:
            return admit.numbers(source.evaluation_numbers(Tee(name)), Tee(name))
        return admit.crl(source.crl(name), name)

    def refresh(self) -> list[str]:
        """Fetch everything of version 4 anew; what failed, in words. What cannot be had stays as it is.

        Raises:
            Refusal: there is no upstream.
        """
        _ = self.upstream.source
        self.upstream.forget()
        failed: list[str] = []
        for kept in self.store.documents():
            if kept.version != API_V4:
                continue
            try:
                self.store.put_documents([self.fetch(kept.kind, kept.name, kept.evaluation)])
            except Refusal as refusal:
                failed.append(f"{kept.kind} {kept.name} {kept.evaluation}".strip() + f": {refusal}")
        return failed

    def _get(self, kind: Kind, name: str, evaluation: str = "", version: int = API_V4) -> Document:
        kept = self.store.document(kind, version, name, evaluation)
        if kept is not None and (version == API_V3 or self.mode is not Mode.LAZY or kept.expires >= self.clock()):
            return kept
        if self.mode is not Mode.LAZY:
            raise Refusal(Status.NO_CACHE_DATA)
        if version == API_V3:
            raise Refusal(Status.PCS_V3_GONE)
        with self._flights[hash((kind, name, evaluation)) % _LOCKS]:
            again = self.store.document(kind, version, name, evaluation)
            if again is not None and again != kept:
                return again
            return self._renew(kept, kind, name, evaluation)

    def _renew(self, kept: Document | None, kind: Kind, name: str, evaluation: str) -> Document:
        """Fetch and keep; if that fails, what has expired is better than nothing: its date says so itself."""
        try:
            found = self.fetch(kind, name, evaluation, stranger=True)
        except Refusal:
            if kept is not None:
                return kept
            raise
        self.store.put_documents([found])
        return found

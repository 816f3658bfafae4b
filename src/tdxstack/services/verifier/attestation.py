"""Judging evidence: collateral for the quote's platform, verification, appraisal, binding to the nonce, a token."""

from __future__ import annotations

import base64
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from tdxstack.dcap import Verifier, ear
from tdxstack.dcap.appraisal import Appraisal, appraise
from tdxstack.dcap.policy import Policy
from tdxstack.errors import CollateralError, WireError
from tdxstack.measure.replay import replay
from tdxstack.pcs.cache import Cache
from tdxstack.pcs.collateral import Wanted
from tdxstack.pcs.from_quote import wanted_for
from tdxstack.pcs.source import STANDARD, EvaluationSet, Source
from tdxstack.services.pccs.refusal import Refusal, Status
from tdxstack.services.verifier.evidence import Evidence
from tdxstack.services.verifier.nonces import NonceRefused, Nonces
from tdxstack.wire.quote import TdReportBody

#: Verifiers kept, one for each FMSPC, TEE and CA; each is made anew after so many seconds.
_KEPT, _KEPT_SECONDS = 64, 600


@dataclass(frozen=True, slots=True)
class Result:
    """A verdict. ``log_fault`` says where the event log does not lead to the quote's RTMRs (empty: it does)."""

    token: str
    accepted: bool
    status: str
    failed: tuple[str, ...]
    log_fault: str


@dataclass(frozen=True, slots=True)
class Basis:
    """What evidence is judged by; ``roots`` as :class:`~tdxstack.dcap.Verifier` takes them."""

    policy: Policy
    roots: list[str | bytes]
    evaluation: EvaluationSet = STANDARD


@dataclass(frozen=True, slots=True)
class Signer:
    """What tokens are signed with (P-384), and their life in seconds."""

    key: ec.EllipticCurvePrivateKey
    token_seconds: int = 300


class Attestation:
    """Thread-safe. ``clock`` gives Unix seconds."""

    def __init__(
        self,
        source: Source,
        cache: Cache,
        nonces: Nonces,
        basis: Basis,
        signer: Signer,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._source = source
        self._cache = cache
        self.nonces = nonces
        self._basis = basis
        self._signer = signer
        self._clock = clock
        self._verifiers: OrderedDict[str, tuple[float, Verifier]] = OrderedDict()
        self._lock = threading.Lock()

    def now(self) -> float:
        """Unix seconds."""
        return self._clock()

    @property
    def jwk(self) -> dict[str, str]:
        """The public key that tokens are verified with."""
        return ear.public_jwk(self._signer.key.public_key())

    def attest(self, evidence: Evidence) -> Result:
        """Judge. The nonce is used up whatever comes of it.

        Raises:
            Refusal: 409 for the nonce, 400 for what is no quote, 502 where there is no collateral.
        """
        try:
            self.nonces.take(evidence.nonce)
        except NonceRefused as refused:
            raise Refusal(Status.CONFLICT, str(refused)) from None
        now = int(self._clock())
        verification = self._verifier(evidence.quote, now).verify(evidence.quote, now=now)
        appraisal = appraise(verification, self._basis.policy, report_data=evidence.report_data)
        log_fault = _log_fault(evidence, appraisal)
        body = ear.claims(
            appraisal,
            issued_at=now,
            lifetime=self._signer.token_seconds,
            nonce=_text(evidence.nonce),
        )
        submodule: dict[str, Any] = body["submods"]["cpu0"]
        if evidence.event_log is not None:
            submodule["tdxstack.event-log"] = log_fault or "replays"
        if log_fault:
            submodule["ear.status"] = ear.Tier.CONTRAINDICATED.name.lower()
            submodule["ear.trustworthiness-vector"]["executables"] = ear.UNRECOGNIZED_RUNTIME
        failed = tuple(rule.name for rule in appraisal.failed)
        accepted = appraisal.accepted and not log_fault
        return Result(ear.sign(body, self._signer.key), accepted, verification.status, failed, log_fault)

    def _verifier(self, quote: bytes, now: int) -> Verifier:
        try:
            wanted = wanted_for(quote, self._basis.evaluation)
        except (WireError, CollateralError) as error:
            raise Refusal(Status.INVALID_REQUEST, f"quote: {error}") from None
        with self._lock:
            kept = self._verifiers.get(wanted.key)
        if kept is not None and 0 <= now - kept[0] < _KEPT_SECONDS:
            return kept[1]
        found = self._fetch(wanted, now)
        with self._lock:
            self._verifiers[wanted.key] = (now, found)
            self._verifiers.move_to_end(wanted.key)
            while len(self._verifiers) > _KEPT:
                self._verifiers.popitem(last=False)
        return found

    def _fetch(self, wanted: Wanted, now: int) -> Verifier:
        try:
            cached = self._cache.get(self._source, wanted, now)
        except CollateralError as error:
            raise Refusal(Status.PCS_ACCESS_FAILURE, error.message) from None
        return Verifier(cached.collateral, self._basis.roots)


def _log_fault(evidence: Evidence, appraisal: Appraisal) -> str:
    quote = appraisal.verification.quote
    if evidence.event_log is None or quote is None or not isinstance(quote.body, TdReportBody):
        return ""
    replayed = replay(evidence.event_log)
    for index, (from_log, from_quote) in enumerate(zip(replayed.rtmr, quote.body.rtmrs, strict=True)):
        if from_log != from_quote:
            return f"RTMR{index}: the log leads to {from_log.hex()}, the quote has {from_quote.hex()}"
    return "; ".join(replayed.problems)


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

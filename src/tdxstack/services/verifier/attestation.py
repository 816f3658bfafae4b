"""Judging evidence: collateral for the quote's platform, verification, appraisal, binding to the nonce, a token."""

from __future__ import annotations

import base64
import functools
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from tdxstack.dcap import Verification, Verifier, ear
from tdxstack.dcap.appraisal import Appraisal, appraise
from tdxstack.dcap.policy import Policy
from tdxstack.errors import CollateralError, WireError
from tdxstack.measure.boot import BootRecord, boot_record
from tdxstack.measure.ima_replay import cover
from tdxstack.pcs.cache import Cache
from tdxstack.pcs.collateral import Wanted
from tdxstack.pcs.from_quote import wanted_for
from tdxstack.pcs.source import STANDARD, EvaluationSet, Source
from tdxstack.services.pccs.refusal import Refusal, Status
from tdxstack.services.verifier.evidence import Evidence
from tdxstack.services.verifier.logs import Logs, judge_logs
from tdxstack.services.verifier.nonces import NonceRefused, Nonces
from tdxstack.wire.td_report_body import TdReportBody

#: Verifiers kept, one for each FMSPC, TEE and CA; each is made anew after so many seconds.
_KEPT, _KEPT_SECONDS = 64, 600


@dataclass(frozen=True, slots=True)
class Result:
    """A verdict. ``failed`` names the rules of ``policy`` that do not hold."""

    token: str
    accepted: bool
    status: str
    policy: str
    failed: tuple[str, ...]
    logs: Logs


@dataclass(frozen=True, slots=True)
class Basis:
    """What evidence is judged by: policies by name, and ``roots`` as :class:`~tdxstack.dcap.Verifier` takes them."""

    policies: Mapping[str, Policy]
    roots: list[str | bytes]
    evaluation: EvaluationSet = STANDARD


@dataclass(frozen=True)
class Signer:
    """What tokens are signed with (P-384), and their life in seconds.

    ``others`` are published too: the keys before and after this one, while it is being changed.
    """

    key: ec.EllipticCurvePrivateKey
    token_seconds: int = 300
    others: tuple[ec.EllipticCurvePrivateKey, ...] = ()

    @functools.cached_property
    def jwks(self) -> list[dict[str, str]]:
        """The public keys that tokens are verified with; the first is that of :attr:`key`."""
        return [ear.public_jwk(key.public_key()) for key in (self.key, *self.others)]


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
        #: Ids of the policies by name; a request's nonce is no part of them.
        self.policies = {name: ear.policy_id(policy) for name, policy in basis.policies.items()}
        self._verifiers: OrderedDict[str, tuple[float, Verifier]] = OrderedDict()
        self._lock = threading.Lock()

    def now(self) -> float:
        """Unix seconds."""
        return self._clock()

    @property
    def jwks(self) -> list[dict[str, str]]:
        """The public keys that tokens are verified with."""
        return self._signer.jwks

    def attest(self, evidence: Evidence) -> Result:
        """Judge. The nonce is used up whatever comes of it, unless the quote cannot be read.

        Raises:
            Refusal: 409 for the nonce, 400 for what is no quote, 502 where there is no collateral.
        """
        policy = self._policy(evidence.policy)
        wanted = self._wanted(evidence.quote)
        try:
            self.nonces.take(evidence.nonce)
        except NonceRefused as refused:
            raise Refusal(Status.CONFLICT, str(refused)) from None
        now = int(self._clock())
        verification = self._verifier(wanted, now).verify(evidence.quote, now=now)
        boot = _boot(evidence, verification) if policy.needs_log else None
        appraisal = appraise(verification, policy, report_data=evidence.report_data, boot=boot)
        logs = judge_logs(evidence, verification.quote)
        return Result(
            self._token(appraisal, logs, evidence, now),
            appraisal.accepted and not logs.fault,
            verification.status,
            self.policies[evidence.policy],
            tuple(rule.name for rule in appraisal.failed),
            logs,
        )

    def _policy(self, name: str) -> Policy:
        found = self._basis.policies.get(name)
        if found is None:
            raise Refusal(Status.INVALID_REQUEST, f"policy: {name!r} is not one of this verifier's.")
        return found

    def _token(self, appraisal: Appraisal, logs: Logs, evidence: Evidence, now: int) -> str:
        body = ear.claims(
            appraisal,
            issued_at=now,
            lifetime=self._signer.token_seconds,
            nonce=_text(evidence.nonce),
            policy=self.policies[evidence.policy],
        )
        submodule: dict[str, Any] = body["submods"]["cpu0"]
        if logs.event_log is not None:
            submodule["tdxstack.event-log"] = logs.event_log
        if logs.ima is not None:
            submodule["tdxstack.ima-list"] = logs.ima
        if logs.fault:
            submodule["ear.status"] = ear.Tier.CONTRAINDICATED.name.lower()
            submodule["ear.trustworthiness-vector"]["executables"] = ear.UNRECOGNIZED_RUNTIME
        return ear.sign(body, self._signer.key, kid=self._signer.jwks[0]["kid"])

    def _wanted(self, quote: bytes) -> Wanted:
        try:
            return wanted_for(quote, self._basis.evaluation)
        except (WireError, CollateralError) as error:
            raise Refusal(Status.INVALID_REQUEST, f"quote: {error}") from None

    def _verifier(self, wanted: Wanted, now: int) -> Verifier:
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


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _boot(evidence: Evidence, verification: Verification) -> BootRecord | None:
    """What the event log says of the boot, with as much of the IMA list as the quote covers."""
    if evidence.event_log is None:
        return None
    body = verification.quote.body if verification.quote else None
    rtmr2 = body.rtmrs[2] if isinstance(body, TdReportBody) else None
    return boot_record(evidence.event_log, cover(evidence.event_log, evidence.ima_list or (), rtmr2).extends)

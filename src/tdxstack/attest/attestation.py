"""The attestation of one TD: evidence verified, appraised, and compared with what was expected, as one result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tdxstack.attest.evidence import Evidence
from tdxstack.attest.judge import Measured, Outcome, Verdict, judge_measurements
from tdxstack.dcap import Collateral, Verifier
from tdxstack.dcap.appraisal import Appraisal, appraise
from tdxstack.dcap.document import verification_members
from tdxstack.dcap.policy import Policy
from tdxstack.measure.boot import read_boot
from tdxstack.measure.prediction import Prediction
from tdxstack.wire.quote import TdReportBody


@dataclass(frozen=True, slots=True)
class Attestation:
    """The result. Accepted only if the quote verifies, the policy holds, and every measurement is as expected."""

    evidence: Evidence
    appraisal: Appraisal
    measured: Measured

    @property
    def verdict(self) -> Verdict:
        return Verdict.ACCEPTED if self.appraisal.accepted and self.measured.holds else Verdict.REJECTED

    def reasons(self) -> list[str]:
        """Why it was rejected, each in a line; nothing if it was accepted."""
        found = [f"{step.name}: {step.detail}" for step in self.measured.steps if step.outcome is not Outcome.PASS]
        verification = self.appraisal.verification
        if not verification.authentic:
            bad = [step for step in verification.steps if step.outcome == "fail"]
            found += [f"{step.name}: {step.detail}" for step in bad] or [f"status {verification.status}"]
        elif not self.appraisal.fresh:
            found.append(f"collateral is not valid now: {verification.supplemental.earliest_expiration_item}")
        found += [f"policy {r.name}: is {r.actual}, wanted {r.wanted}" for r in self.appraisal.failed]
        return found

    def to_document(self) -> dict[str, Any]:
        """Members of ``tdxstack/quickstart/v1`` and ``tdxstack/attestation/v1`` that tell of the judgement."""
        mrtd, *rtmrs = self.measured.registers
        return {
            "nonce": self.evidence.report_data.hex(),
            "mrtd": {"expected": _hex(mrtd.expected), "quoted": mrtd.quoted.hex()},
            "rtmr": [
                {
                    "expected": _hex(register.expected),
                    "replayed": _hex(register.replayed),
                    "quoted": register.quoted.hex(),
                    **({"reason": register.reason} if register.expected is None else {}),
                }
                for register in rtmrs
            ],
            "checks": [
                {"name": step.name, "outcome": step.outcome.value, "detail": step.detail}
                for step in self.measured.steps
            ],
            "verification": verification_members(self.appraisal),
            "verdict": self.verdict.value,
            "reasons": self.reasons(),
        }


def attest(evidence: Evidence, expected: Prediction, verifier: Verifier, policy: Policy, *, now: int) -> Attestation:
    """Judge evidence at ``now`` (Unix seconds).

    Raises:
        WireError: the quote cannot be read, or is not a TD's.
    """
    verification = verifier.verify(evidence.quote, now=now)
    quote = verification.quote
    rtmr2 = quote.body.rtmrs[2] if quote and isinstance(quote.body, TdReportBody) else None
    boot = read_boot(evidence.ccel, evidence.ima, rtmr2) if policy.needs_log else None
    appraisal = appraise(verification, policy, report_data=evidence.report_data, boot=boot)
    return Attestation(evidence, appraisal, judge_measurements(evidence, expected))


def verifier_of(collateral: dict[str, str], root: bytes) -> Verifier:
    """A verifier for a platform's own collateral and root certificate (DER)."""
    return Verifier(Collateral(**collateral), roots=[root])


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()

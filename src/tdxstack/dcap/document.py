"""Verification, appraisal and explanation as plain values for JSON, in the published shapes."""

from __future__ import annotations

from typing import Any

from tdxstack.dcap.appraisal import Appraisal, iso
from tdxstack.dcap.explain import REMEDY_TEXT, Explanation, Part
from tdxstack.dcap.verification import Step, Verification
from tdxstack.wire.body_members import body_members
from tdxstack.wire.quote import TdReportBody


def verification_members(appraisal: Appraisal, *, first_steps: tuple[Step, ...] = ()) -> dict[str, Any]:
    """The members of ``tdxstack/quote-verification/v1``; ``first_steps`` were taken before verification."""
    verification = appraisal.verification
    supplemental = verification.supplemental
    first = supplemental.earliest_expiration_date
    return {
        "accepted": appraisal.accepted,
        "authentic": verification.authentic,
        "status": verification.status,
        "qvl": {name: str(status) for name, status in verification.qvl._asdict().items()},
        "launch_status": verification.launch_status,
        "current_status": verification.current_status,
        "advisories": list(verification.advisories),
        "tcb_date": iso(verification.tcb_date) if verification.tcb_date is not None else None,
        "expiry": {
            "earliest": iso(first) if first else None,
            "item": supplemental.earliest_expiration_item or None,
            "expired": verification.expired,
        },
        "at": iso(verification.now),
        "software": verification.software,
        "steps": [step._asdict() for step in (*first_steps, *verification.steps)],
        "policy": policy_members(appraisal),
        "fault_offset": verification.judgement.fault_offset,
        "quote": quote_members(verification),
        "supplemental": supplemental_members(verification),
    }


def policy_members(appraisal: Appraisal) -> dict[str, Any]:
    """The outcome of the policy's rules."""
    rules = [
        {"name": rule.name, "outcome": "pass" if rule.holds else "fail", "wanted": rule.wanted, "actual": rule.actual}
        for rule in appraisal.rules
    ]
    return {"name": appraisal.policy.name, "holds": not appraisal.failed, "rules": rules}


def quote_members(verification: Verification) -> dict[str, Any] | None:
    """What the quote says of itself, as far as it is authentic; None if it cannot be read."""
    quote = verification.quote
    if quote is None:
        return None
    return {
        "version": quote.header.version,
        "tee": "tdx" if isinstance(quote.body, TdReportBody) else "sgx",
        "body_type": int(quote.body_type),
        **body_members(quote.body),
    }


def supplemental_members(verification: Verification) -> dict[str, Any]:
    """Supplemental data; times as dates."""
    supplemental = verification.supplemental
    members: dict[str, Any] = {}
    for name in supplemental.__dataclass_fields__:
        value = getattr(supplemental, name)
        if isinstance(value, tuple):
            members[name] = list(value)
        else:
            members[name] = iso(value) if "_date" in name and value else value
    return members


def explanation_members(explanation: Explanation) -> dict[str, Any]:
    """The members of ``tdxstack/quote-explanation/v1``."""
    return {
        "status": explanation.status,
        "note": explanation.note or None,
        "launch": [_part(part) for part in explanation.launch],
        "current": None if explanation.current is None else [_part(part) for part in explanation.current],
        "remedies": [{"class": remedy.value, "what": REMEDY_TEXT[remedy]} for remedy in explanation.remedies],
    }


def _part(part: Part) -> dict[str, Any]:
    return {
        "part": part.part,
        "status": part.status,
        "tcb_date": iso(part.date) if part.date is not None else None,
        "advisories": list(part.advisories),
        "gaps": [
            {
                "component": gap.component,
                "name": gap.name or None,
                "have": gap.have,
                "need": gap.need,
                "remedy": gap.remedy.value,
            }
            for gap in part.gaps
        ],
    }

"""Forged evidence: each change is found out by the step and with the status by which Intel's library finds it."""

from __future__ import annotations

import json

import pytest

import qvl
from forge import NOW, Forge
from forged_cases import SETS, cases
from tdxstack.dcap import Verifier
from tdxstack.dcap.appraisal import appraise
from tdxstack.dcap.document import verification_members
from tdxstack.dcap.policy import Policy

RECORDED: dict[str, str] = json.loads(qvl.RECORD.read_text())


@pytest.mark.parametrize("chosen", SETS)
def test_statuses_are_those_recorded(chosen: str) -> None:
    """And evidence is accepted only where all four are good; documents are made of everything."""
    wrong = {}
    for name, forge in cases(chosen):
        quote, collateral, root = forge.build()
        verification = Verifier(collateral, [root]).verify(quote, now=NOW)
        found = " ".join(verification.qvl)
        if found != RECORDED[name]:
            wrong[name] = (found, RECORDED[name])
        appraisal = appraise(verification, Policy())
        if appraisal.accepted:
            assert found == "OK OK OK OK", name
        if not verification.authentic:
            assert any(step.outcome == "fail" for step in verification.steps), name
        assert json.dumps(verification_members(appraisal))
    assert not wrong


def test_record_has_these_cases() -> None:
    assert [name for name, _ in cases()] == list(RECORDED)
    assert len({status for statuses in RECORDED.values() for status in statuses.split()}) > 40


@pytest.mark.skipif(not qvl.LIBRARY, reason="no library of Intel's (set TDXSTACK_QVL to libQuoteVerification.so)")
def test_record_is_what_the_library_says() -> None:
    for name, forge in cases():
        assert " ".join(qvl.judge(*forge.build(), NOW)) == RECORDED[name], name


@pytest.mark.parametrize(
    ("part", "step", "status"),
    [
        ("qe_signature", "qe_report_signature", "INVALID_QE_REPORT_SIGNATURE"),
        ("attestation_key", "attestation_key", "UNSUPPORTED_QUOTE_FORMAT"),
        ("quote_signature", "quote_signature", "INVALID_QUOTE_SIGNATURE"),
    ],
)
def test_the_step_is_named(part: str, step: str, status: str) -> None:
    forge = Forge(patches={part: lambda data: bytes(len(data))})
    quote, collateral, root = forge.build()
    steps = {s.name: s for s in Verifier(collateral, [root]).verify(quote, now=NOW).steps}
    assert (steps[step].outcome, steps[step].detail.split(":")[0]) == ("fail", status)
    names = list(steps)
    assert all(steps[name].outcome == "skip" for name in names[names.index(step) + 1 :])

"""Judgement: verified quote, fresh nonce, replayed log and expected registers, put together into one verdict.

Each step says what it looked at and how it ended; the verdict is ``accepted`` only if every step passed.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, replace
from enum import StrEnum

from tdxstack.attest.evidence import Evidence
from tdxstack.attest.expectation import explain
from tdxstack.errors import WireError
from tdxstack.measure.check import false_descriptions
from tdxstack.measure.ima_replay import RTMR, cover
from tdxstack.measure.prediction import Prediction, registers
from tdxstack.measure.replay import Replay, replay
from tdxstack.measure.rtmr import fold
from tdxstack.wire.ima import read_list
from tdxstack.wire.quote import Quote
from tdxstack.wire.tcg import EventLog
from tdxstack.wire.td_report_body import TdReportBody
from tdxstack.wire.tdreport import TdReport

#: (RTMR, digest) pairs.
Extends = tuple[tuple[int, bytes], ...]
RTMR_NAMES = ("RTMR0", "RTMR1", "RTMR2", "RTMR3")


class Verdict(StrEnum):
    """What comes of it; there is nothing in between."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"


class Outcome(StrEnum):
    """How one step ended. A skipped step could not be judged; it never counts as passed."""

    PASS = "pass"  # noqa: S105 - an outcome
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Step:
    """One step: its name, how it ended, and what there is to say."""

    name: str
    outcome: Outcome
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Register:
    """One measurement register, three times: as expected, as the log replays, as the quote has it.

    ``expected`` is None where it cannot be predicted, ``reason`` then says why; ``replayed`` is None for MRTD, which
    has no log, and where the log cannot be read.
    """

    name: str
    quoted: bytes
    expected: bytes | None
    replayed: bytes | None
    reason: str | None = None

    @property
    def holds(self) -> bool:
        """Whether all that is known about it agrees, and enough is known."""
        known = [value for value in (self.expected, self.replayed) if value is not None]
        return bool(known) and all(hmac.compare_digest(value, self.quoted) for value in known)


@dataclass(frozen=True, slots=True)
class Measured:
    """The judgement on measurements and freshness: everything but the quote's signatures and TCB."""

    registers: tuple[Register, ...]
    steps: tuple[Step, ...]

    @property
    def holds(self) -> bool:
        return all(step.outcome is Outcome.PASS for step in self.steps)


def judge_measurements(evidence: Evidence, expected: Prediction) -> Measured:
    """Judge what the quote says about the TD; whether the quote may be believed is verification's matter.

    Raises:
        WireError: the quote cannot be read, or is not a TD's.
    """
    body = Quote.from_bytes(evidence.quote).body
    if not isinstance(body, TdReportBody):
        raise WireError("sgx_quote4_t", "tee_type", 4, "the quote of an SGX enclave, not of a TD")
    log, log_step = _read_log(evidence.ccel)
    ima, ima_steps = _read_ima(evidence.ima, log, body.rtmrs[RTMR])
    replayed = replay(log, ima) if log is not None else None
    registers = _registers(body, replayed, _with_ima(expected, ima))
    steps = (
        _nonce_step(body, evidence.report_data),
        _report_step(body, evidence.tdreport),
        log_step if log is None or replayed is None else _replay_step(registers, replayed, log),
        *ima_steps,
        *(_expected_step(register, expected, log) for register in registers),
    )
    return Measured(registers, steps)


def _read_ima(data: bytes | None, log: EventLog | None, quoted: bytes) -> tuple[Extends, tuple[Step, ...]]:
    """What RTMR2 was extended by from an IMA list, and how the list was found; nothing where there is none."""
    name = "IMA list"
    if data is None or log is None:
        return (), ()
    try:
        found = cover(log, read_list(data), quoted)
    except WireError as fault:
        return (), (Step(name, Outcome.FAIL, f"cannot be read: {fault}"),)
    if found.problems:
        return found.extends, (Step(name, Outcome.FAIL, "; ".join(found.problems)),)
    if not found.covered:
        why = "altered, or not of this boot" if found.covered is None else "in no register"
        return found.extends, (Step(name, Outcome.FAIL, f"{why}: {found.total} entries do not lead to RTMR2"),)
    return found.extends, (Step(name, Outcome.PASS, f"RTMR2 covers {found.covered} of {found.total} entries"),)


def _with_ima(expected: Prediction, extends: Extends) -> Prediction:
    """The prediction, which does not know what IMA measures, carried on from before it by what it extended."""
    if not extends:
        return expected
    before, reasons = registers(event for event in expected.events if event.logged)
    values: list[bytes | None] = []
    for number, value in enumerate(expected.rtmr):
        start = before[number] if value is None else value
        mine = (digest for rtmr, digest in extends if rtmr == number)
        values.append(None if start is None else fold(mine, start))
    return replace(expected, rtmr=(values[0], values[1], values[2], values[3]), reasons=reasons)


def _registers(body: TdReportBody, replayed: Replay | None, expected: Prediction) -> tuple[Register, ...]:
    mrtd = Register("MRTD", body.mr_td, expected.mrtd, None)
    rtmrs = (
        Register(
            name,
            body.rtmrs[number],
            expected.rtmr[number],
            replayed.rtmr[number] if replayed else None,
            expected.reasons[number],
        )
        for number, name in enumerate(RTMR_NAMES)
    )
    return (mrtd, *rtmrs)


def _read_log(data: bytes) -> tuple[EventLog | None, Step]:
    try:
        return EventLog.from_bytes(data), Step("event log", Outcome.PASS)
    except WireError as fault:
        return None, Step("event log", Outcome.FAIL, f"cannot be read: {fault}")


def _nonce_step(body: TdReportBody, report_data: bytes) -> Step:
    if hmac.compare_digest(body.report_data, report_data):
        return Step("nonce", Outcome.PASS, "REPORTDATA is the fresh nonce")
    return Step("nonce", Outcome.FAIL, f"REPORTDATA is {body.report_data.hex()}, not the nonce: a quote made before")


def _report_step(body: TdReportBody, tdreport: bytes) -> Step:
    name = "TDREPORT"
    try:
        report = TdReport.from_bytes(tdreport)
    except WireError as fault:
        return Step(name, Outcome.FAIL, str(fault))
    same = (
        report.report_data == body.report_data
        and report.td_info.mr_td == body.mr_td
        and report.td_info.rtmrs == body.rtmrs
    )
    if same:
        return Step(name, Outcome.PASS, "the same TD as the quote's")
    return Step(name, Outcome.FAIL, "MRTD, RTMRs or REPORTDATA differ from the quote's")


def _replay_step(registers: tuple[Register, ...], replayed: Replay, log: EventLog) -> Step:
    name = "event log"
    if replayed.problems:
        return Step(name, Outcome.FAIL, "; ".join(replayed.problems))
    differ = [r.name for r in registers if r.replayed is not None and not hmac.compare_digest(r.replayed, r.quoted)]
    if differ:
        return Step(name, Outcome.FAIL, f"does not replay to {', '.join(differ)}: the log is not that of this boot")
    if untrue := false_descriptions(log.events):
        return Step(name, Outcome.FAIL, "; ".join(untrue))
    return Step(name, Outcome.PASS, f"{sum(replayed.extended)} events replay to RTMR0..3")


def _expected_step(register: Register, expected: Prediction, log: EventLog | None) -> Step:
    if register.expected is None:
        return Step(register.name, Outcome.SKIP, register.reason or "not predicted")
    if hmac.compare_digest(register.expected, register.quoted):
        return Step(register.name, Outcome.PASS, "as predicted from the files that were to boot")
    if register.name not in RTMR_NAMES:
        return Step(register.name, Outcome.FAIL, "another firmware was booted than the one that was predicted")
    return Step(register.name, Outcome.FAIL, explain(expected, log, RTMR_NAMES.index(register.name)))

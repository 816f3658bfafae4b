"""What the logs beside a quote show: the CC event log, and the IMA list where the guest extends RTMR2 by it."""

from __future__ import annotations

from dataclasses import dataclass

from tdxstack.measure.logs import ima_extends
from tdxstack.measure.replay import Replay, replay
from tdxstack.measure.rtmr import extend
from tdxstack.services.verifier.evidence import Evidence
from tdxstack.wire.ima import ImaEntry
from tdxstack.wire.quote import Quote, TdReportBody

REPLAYS = "replays"
NOT_BOUND = "not bound"
_IMA_RTMR = 2


@dataclass(frozen=True, slots=True)
class Logs:
    """What was found; None for what was not sent.

    Args:
        event_log: ``replays``, or where the log does not lead to the quote's registers.
        ima: ``bound to RTMR2 (N of M entries)``, ``not bound`` where the registers hold without the list (it may be
            right, but this quote does not say so), or what is wrong with it.
        fault: what does not hold; empty if all does.
    """

    event_log: str | None = None
    ima: str | None = None
    fault: str = ""


def judge_logs(evidence: Evidence, quote: Quote | None) -> Logs:
    """Replay what was sent against the quote's RTMRs."""
    if evidence.event_log is None or quote is None or not isinstance(quote.body, TdReportBody):
        return Logs()
    replayed, rtmrs = replay(evidence.event_log), quote.body.rtmrs
    wrong = [index for index in range(len(rtmrs)) if replayed.rtmr[index] != rtmrs[index]]
    fault = _difference(replayed, wrong, rtmrs)
    if evidence.ima_list is None:
        return Logs(fault or REPLAYS, None, fault)
    if wrong and wrong != [_IMA_RTMR]:
        return Logs(fault, NOT_BOUND, fault)
    if not wrong:
        altered = _altered(evidence.ima_list)
        return Logs(fault or REPLAYS, altered or NOT_BOUND, fault or altered)
    bound = _entries_until(evidence.ima_list, replayed.rtmr[_IMA_RTMR], rtmrs[_IMA_RTMR])
    if not bound:
        return Logs(fault, "RTMR2: no part of the list leads to what the quote has", fault)
    altered = _altered(evidence.ima_list[:bound])
    said = altered or f"bound to RTMR2 ({bound} of {len(evidence.ima_list)} entries)"
    return Logs("; ".join(replayed.problems) or REPLAYS, said, altered or "; ".join(replayed.problems))


def _difference(replayed: Replay, wrong: list[int], rtmrs: tuple[bytes, ...]) -> str:
    if wrong:
        index = wrong[0]
        return f"RTMR{index}: the log leads to {replayed.rtmr[index].hex()}, the quote has {rtmrs[index].hex()}"
    return "; ".join(replayed.problems)


def _entries_until(entries: tuple[ImaEntry, ...], value: bytes, wanted: bytes) -> int:
    """How many entries lead from ``value`` to ``wanted``; 0 if none do. The list may have grown after the quote."""
    for number, (_, digest) in enumerate(ima_extends(entries)[0], 1):
        value = extend(value, digest)
        if value == wanted:
            return number
    return 0


def _altered(entries: tuple[ImaEntry, ...]) -> str:
    wrong = [number for number, entry in enumerate(entries) if not entry.digest_holds]
    return f"IMA entry {wrong[0]}: its template digest is not of its fields" if wrong else ""

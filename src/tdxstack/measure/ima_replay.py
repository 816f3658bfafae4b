"""IMA lists beside a CC event log: which of a list's entries a register's value covers.

The kernel adds an entry to its list and extends the register by it, one after the other; a list that is fetched after
a quote was made may be longer than what the quote covers, never shorter. Which RTMR an entry reaches, and what is
wrong with the list itself: :func:`tdxstack.measure.logs.ima_extends`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tdxstack.measure.logs import IMA_RTMR, ima_extends
from tdxstack.measure.replay import replay
from tdxstack.measure.rtmr import extend
from tdxstack.wire.ima import ImaEntry
from tdxstack.wire.tcg import EventLog

RTMR = 2


@dataclass(frozen=True, slots=True)
class CoveredList:
    """``covered`` of a list's ``total`` entries lead from the event log's RTMR2 to the value; None: no number does.

    ``extends`` are (RTMR, digest) of the covered entries, or of all where none lead there. ``problems`` are faults of
    the covered entries themselves, each as a sentence.
    """

    covered: int | None
    total: int
    extends: tuple[tuple[int, bytes], ...]
    problems: tuple[str, ...]


def cover(log: EventLog, entries: Sequence[ImaEntry], value: bytes | None) -> CoveredList:
    """Find how much of a list RTMR2's ``value`` covers; without a value, all of it."""
    number = None if value is None else covered(replay(log).rtmr[RTMR], entries, value)
    taken = entries if number is None else entries[:number]
    extends, problems = ima_extends(tuple(taken))
    return CoveredList(len(taken) if value is None else number, len(entries), tuple(extends), tuple(problems))


def covered(start: bytes, entries: Sequence[ImaEntry], value: bytes) -> int | None:
    """How many entries, from the first, lead from ``start`` to ``value``: the least such number, or None."""
    register = start
    if register == value:
        return 0
    for number, entry in enumerate(entries, 1):
        if IMA_RTMR.get(entry.index) != RTMR:
            continue
        register = extend(register, entry.extended())
        if register == value:
            return number
    return None

"""What the registers of a TD are expected to be, and in words where a boot left it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from tdxstack.errors import UsageError
from tdxstack.measure.difference import diff
from tdxstack.measure.export import prediction_from_members
from tdxstack.measure.prediction import Prediction
from tdxstack.wire.tcg import EventLog

MAX_DOCUMENT = 16 << 20


def read_expectation(path: Path) -> Prediction:
    """A prediction that was kept as a document (``tdxstack/prediction/v1``).

    Raises:
        UsageError: it is not such a document.
    """
    try:
        with path.open("rb") as stream:
            document = json.loads(stream.read(MAX_DOCUMENT))
    except (OSError, ValueError) as fault:
        raise UsageError(f"{path}: {fault}", hint="make one: tdxctl measure predict --json > expected.json") from None
    return prediction_from_members(document)


def explain(expected: Prediction, log: EventLog | None, rtmr: int) -> str:
    """In words, where the boot left the prediction in one register (0..3)."""
    if log is None:
        return "differs from the prediction, and there is no log to say where"
    events = tuple(event for event in log.events if event.mr_index == rtmr + 1)
    found = diff(replace(expected, events=expected.of_register(rtmr)), replace(log, events=events))
    if found is None:
        return "differs from the prediction, though the log agrees with it: something was extended and not logged"
    return f"{found.text}; {found.advice}"

"""The results of a run as plain values: one entry for each test, whatever phase it ended in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

OUTCOMES = ("passed", "failed", "error", "skipped")
Told = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One test. ``facts`` are what it measured; ``reason`` is why it was skipped or failed; ``seconds`` is its whole.

    ``phase`` is pytest's: ``setup``, ``call`` or ``teardown``.
    """

    module: str
    test: str
    category: str
    requires: tuple[str, ...]
    phase: str
    outcome: str
    seconds: float
    reason: str
    facts: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"{self.module}::{self.test}"


class Report:
    """Collects results while the tests run, and tells of each as it ends."""

    def __init__(self, told: Told = lambda _: None) -> None:
        self._told = told
        self._results: dict[str, CaseResult] = {}

    @property
    def results(self) -> tuple[CaseResult, ...]:
        return tuple(self._results.values())

    def began(self, nodeid: str) -> None:
        """A test begins."""

    def add(self, result: CaseResult) -> None:
        """Take one phase's result into the test's."""
        before = self._results.get(result.name)
        seconds = result.seconds + (before.seconds if before else 0)
        outcome = result.outcome
        if outcome == "failed" and result.phase != "call":
            outcome = "error"
        if before is not None and before.outcome != "passed":
            outcome, result = before.outcome, replace(result, reason=before.reason or result.reason)
        merged = replace(result, outcome=outcome, seconds=seconds)
        self._results[result.name] = merged
        if result.phase == "teardown":
            self._told(_line(merged))

    def summary(self) -> dict[str, int]:
        """How many tests ended in which way."""
        found = [one.outcome for one in self.results]
        return {outcome: found.count(outcome) for outcome in OUTCOMES}

    def to_mapping(self) -> dict[str, Any]:
        """Summary and tests, for JSON."""
        tests = []
        for one in self.results:
            values = asdict(one)
            del values["phase"]
            tests.append({**values, "seconds": round(one.seconds, 2), "requires": list(one.requires)})
        return {"summary": self.summary(), "tests": tests}


def _line(result: CaseResult) -> str:
    text = f"{result.outcome:<8} {result.name} ({result.seconds:.1f} s)"
    if result.outcome == "skipped":
        text += f": {result.reason}"
    elif result.reason:
        text += "\n" + "\n".join(f"    {line}" for line in result.reason.splitlines()[-25:])
    return text

"""A check, what it found, and the tree that runs checks.

A check looks at one thing and says what it found. What it looks at may be malformed, absent or forbidden: that is a
finding too, never a crash. Children ask something that makes sense only where their parent holds; where it fails they
are skipped with that reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from tdxstack.errors import WireError
from tdxstack.platform.linux_host_files import HostReadError
from tdxstack.preflight.facts import FactMalformed
from tdxstack.preflight.host import Host


class Outcome(StrEnum):
    """How a check ended. ``warn`` is worth a look and stops nothing; ``skip`` was not looked at."""

    PASS = "pass"  # noqa: S105 (no password)
    FAIL = "fail"
    WARN = "warn"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look brought: the outcome, the evidence, and a fix where it is more special than the check's own."""

    outcome: Outcome
    evidence: str
    fix: str | None = None


def passed(evidence: str) -> Finding:
    return Finding(Outcome.PASS, evidence)


def failed(evidence: str, fix: str | None = None) -> Finding:
    return Finding(Outcome.FAIL, evidence, fix)


def warned(evidence: str, fix: str | None = None) -> Finding:
    return Finding(Outcome.WARN, evidence, fix)


def skipped(reason: str) -> Finding:
    return Finding(Outcome.SKIP, reason)


def judged(good: bool, evidence: str, fix: str | None = None) -> Finding:
    """Pass or fail by ``good``."""
    return passed(evidence) if good else failed(evidence, fix)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at.

    Args:
        id: its stable name, ``area.thing``.
        title: what it is, in a few words.
        look: looks at the host; may raise what reading and parsing raise.
        want: what must be found.
        why: what goes wrong otherwise.
        fix: what to do: BIOS setting with its usual menu path, command, or document.
        required: a host that fails it cannot do its work; else a failure is a warning.
        children: checks that make sense only where this one does not fail.
    """

    id: str
    title: str
    look: Callable[[Host], Finding]
    want: str
    why: str
    fix: str
    required: bool = True
    children: tuple[Check, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """A check with its finding and the results of its children."""

    check: Check
    finding: Finding
    children: tuple[Result, ...]

    @property
    def outcome(self) -> Outcome:
        return self.finding.outcome

    @property
    def fix(self) -> str:
        """What to do; empty where nothing is to be done."""
        if self.outcome in (Outcome.PASS, Outcome.SKIP):
            return ""
        return self.finding.fix or self.check.fix

    def walk(self) -> Iterator[Result]:
        yield self
        for child in self.children:
            yield from child.walk()


def run(check: Check, host: Host) -> Result:
    """Look, then let the children look, or skip them where this one failed."""
    finding = _look(check, host)
    if finding.outcome in (Outcome.FAIL, Outcome.SKIP):
        word = "failed" if finding.outcome is Outcome.FAIL else "was skipped"
        children = tuple(skip(child, f"{check.id} {word}") for child in check.children)
    else:
        children = tuple(run(child, host) for child in check.children)
    if finding.outcome is Outcome.FAIL and not check.required:
        finding = Finding(Outcome.WARN, finding.evidence, finding.fix)
    return Result(check, finding, children)


def skip(check: Check, reason: str) -> Result:
    """The result of a check, and of all below it, that is not looked at."""
    return Result(check, skipped(reason), tuple(skip(child, reason) for child in check.children))


def _look(check: Check, host: Host) -> Finding:
    try:
        return check.look(host)
    except HostReadError as error:
        return failed(error.message, error.hint)
    except WireError as error:
        return failed(f"malformed: {error}")
    except FactMalformed as error:
        return failed(f"malformed: {error.message}")

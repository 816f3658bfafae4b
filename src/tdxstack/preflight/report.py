"""Results as a document, as text, and as an exit code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tdxstack.errors import ExitCode
from tdxstack.preflight.model import Outcome, Result

MARKS = {Outcome.PASS: "ok  ", Outcome.FAIL: "FAIL", Outcome.WARN: "warn", Outcome.SKIP: "skip"}
COLOURS = {Outcome.PASS: "32", Outcome.FAIL: "31;1", Outcome.WARN: "33", Outcome.SKIP: "2"}


def everything(results: Sequence[Result]) -> Iterator[Result]:
    for result in results:
        yield from result.walk()


def all_required_pass(results: Sequence[Result]) -> bool:
    return not any(result.outcome is Outcome.FAIL for result in everything(results))


def exit_code(results: Sequence[Result], roots: frozenset[str]) -> ExitCode:
    """0 where every required check passes, 4 where a root fails (not such a machine at all), 1 otherwise."""
    if all_required_pass(results):
        return ExitCode.DONE
    failing = {result.check.id for result in everything(results) if result.outcome is Outcome.FAIL}
    return ExitCode.UNSUPPORTED if failing & roots else ExitCode.FAILED


def body(results: Sequence[Result]) -> dict[str, Any]:
    return {"ok": all_required_pass(results), "checks": [_entry(result) for result in results]}


def _entry(result: Result) -> dict[str, Any]:
    return {
        "id": result.check.id,
        "title": result.check.title,
        "outcome": result.outcome.value,
        "evidence": result.finding.evidence,
        "expected": f"{result.check.want} ({result.check.why})",
        "fix": result.fix,
        "children": [_entry(child) for child in result.children],
    }


def text(results: Sequence[Result], *, colour: bool = False, verbose: bool = False) -> str:
    """A line a check; what is not well is told in full. ``verbose`` tells all in full."""
    lines: list[str] = []
    for result in results:
        lines.extend(_lines(result, 0, colour, verbose))
    counts = {outcome: sum(1 for one in everything(results) if one.outcome is outcome) for outcome in Outcome}
    summary = ", ".join(f"{count} {outcome.value}" for outcome, count in counts.items() if count)
    return "\n".join([*lines, "", summary])


def _lines(result: Result, depth: int, colour: bool, verbose: bool) -> Iterator[str]:
    mark = MARKS[result.outcome]
    if colour:
        mark = f"\033[{COLOURS[result.outcome]}m{mark}\033[0m"
    indent = "  " * depth
    detail = f"      {indent}"
    if result.outcome is Outcome.SKIP and not verbose:
        below = sum(1 for _ in result.walk()) - 1
        more = f", and {below} below it" if below else ""
        yield f"{mark}  {indent}{result.check.title}{more}: {result.finding.evidence}  [{result.check.id}]"
        return
    yield f"{mark}  {indent}{result.check.title}  [{result.check.id}]"
    if result.outcome in (Outcome.FAIL, Outcome.WARN) or verbose:
        yield f"{detail}found:  {result.finding.evidence}"
        if result.outcome is not Outcome.SKIP:
            yield f"{detail}wanted: {result.check.want}"
            yield f"{detail}why:    {result.check.why}"
        for number, line in enumerate(result.fix.splitlines()):
            yield f"{detail}{'fix:    ' if number == 0 else '        '}{line}"
    for child in result.children:
        yield from _lines(child, depth + 1, colour, verbose)


def reasons(results: Sequence[Result], roots: frozenset[str]) -> list[str]:
    """Why the machine is no such host: the evidence of failing roots."""
    return [
        f"{result.finding.evidence}. {result.fix}"
        for result in everything(results)
        if result.outcome is Outcome.FAIL and result.check.id in roots
    ]

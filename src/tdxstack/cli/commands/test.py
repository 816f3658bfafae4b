"""``tdxctl test``: the tests of the stack itself, on machines that really run."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tdxstack.cli import output
from tdxstack.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from tdxstack.tdtests.runner import RunOptions, RunOutcome

GUESTS = ("debian", "ubuntu", "rhel")
DEFAULT_ARTIFACTS = Path("artifacts.yaml")
#: pytest: no test was collected; wrong use.
NO_TESTS, WRONG_USE = 5, 4


def add_parser(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    stack = output.add_verb(verbs, "stack", "run the stack's tests: the white paper's table 6 and more")
    stack.add_argument("-s", "--suite", choices=("all",), help="all tests (the same as no -c)")
    stack.add_argument(
        "-c",
        "--case",
        action="append",
        default=[],
        metavar="MODULE[::TEST]",
        help="one module or test, or a file of your own (repeatable)",
    )
    stack.add_argument("-g", "--guest", choices=GUESTS, default="debian", help="the guests' distribution")
    stack.add_argument("--artifacts", type=Path, metavar="FILE", help="images to use (default: ./artifacts.yaml)")
    stack.add_argument("--platform", metavar="NAME", help="platform of the TDs (tdxctl platform list)")
    stack.add_argument("--outside", metavar="URL", help="URL that a guest is to fetch from outside")
    stack.add_argument("-k", "--keep-vm", action="store_true", help="leave the machines of failed tests as they are")
    stack.add_argument("--junit", type=Path, metavar="FILE", help="write the results as JUnit XML")
    stack.add_argument("--results", type=Path, metavar="FILE", help="write the results as JSON")
    stack.add_argument(
        "--list",
        "--dry-run",
        dest="dry_run",
        action="store_true",
        help="list the tests, with why one would be skipped",
    )
    output.add_json(stack)
    stack.set_defaults(run=run_stack)


def run_stack(args: argparse.Namespace) -> ExitCode:
    from tdxstack.tdtests.runner import run_tests

    if args.suite and args.case:
        raise UsageError("-s all and -c at once", hint="leave one of them out")
    options = _options(args)
    outcome = run_tests(options, output.say)
    if outcome.status in (NO_TESTS, WRONG_USE) and not outcome.listed:
        raise UsageError(f"no test {', '.join(args.case)}", hint="tdxctl test stack --list")
    if args.dry_run:
        body = output.document("stack-tests", {"tests": list(outcome.listed)})
        output.emit(args, body, lambda: _listed(outcome))
        return ExitCode.DONE
    body = output.document("stack-results", _results(options, outcome))
    if args.results:
        from tdxstack.system.files import write_atomic

        write_atomic(args.results, json.dumps(body, indent=2) + "\n")
    output.emit(args, body, lambda: _summed(outcome))
    _tell_kept(outcome.kept)
    return _exit_code(outcome)


def _options(args: argparse.Namespace) -> RunOptions:
    from tdxstack.cloud.artifacts import ArtifactManifest
    from tdxstack.tdtests.environment import Environment
    from tdxstack.tdtests.runner import RunOptions, Selection

    file = args.artifacts or (DEFAULT_ARTIFACTS if DEFAULT_ARTIFACTS.exists() else None)
    environment = Environment(
        guest=args.guest,
        artifacts=ArtifactManifest.load(file) if file else ArtifactManifest({}),
        platform=args.platform,
        outside=args.outside,
        progress=output.step,
    )
    return RunOptions(
        Selection(tuple(args.case)), environment, keep_vm=args.keep_vm, junit=args.junit, list_only=args.dry_run
    )


def _results(options: RunOptions, outcome: RunOutcome) -> dict[str, Any]:
    environment = options.environment
    return {
        "platform": environment.platform_name,
        "hardware": environment.hardware,
        "emulated": environment.emulated,
        "guest": environment.guest,
        "seconds": round(outcome.seconds, 1),
        **outcome.report.to_mapping(),
        "kept": list(outcome.kept),
    }


def _exit_code(outcome: RunOutcome) -> ExitCode:
    """A run in which nothing ran has shown nothing."""
    summary = outcome.report.summary()
    if summary["failed"] or summary["error"] or outcome.status not in (0, NO_TESTS):
        return ExitCode.FAILED
    return ExitCode.DONE if summary["passed"] else ExitCode.UNSUPPORTED


def _summed(outcome: RunOutcome) -> str:
    counts = ", ".join(f"{count} {name}" for name, count in outcome.report.summary().items() if count)
    return f"{counts or 'nothing ran'} in {outcome.seconds:.0f} s"


def _tell_kept(names: tuple[str, ...]) -> None:
    for name in names:
        output.say(f"kept: {name}: tdxctl td ssh {name}, tdxctl td logs {name}; tdxctl td delete {name} --yes")


def _listed(outcome: RunOutcome) -> str:
    lines = []
    for one in outcome.listed:
        text = f"{one['category']:<17}{one['module']}::{one['test']}"
        lines.append(f"{text}  (skipped: {one['skipped']})" if one["skipped"] else text)
    return "\n".join(lines)

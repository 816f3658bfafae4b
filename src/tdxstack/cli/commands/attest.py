"""``tdxctl attest``: have a running TD prove itself anew, and judge the proof."""

from __future__ import annotations

import argparse
from pathlib import Path

from tdxstack.cli import output
from tdxstack.errors import ExitCode


def add_parser(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "The exit status is 0 if the evidence was accepted, 3 if it was rejected."
    parser.add_argument("name", metavar="NAME", help="the running TD")
    parser.add_argument(
        "--expect",
        type=Path,
        metavar="FILE",
        help="compare with this prediction (tdxctl measure predict --json) instead of one from the TD's files",
    )
    parser.add_argument("--policy", metavar="FILE", help="appraisal policy (default: the strict one)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where the evidence is kept")
    output.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitCode:
    from tdxstack.attest.expectation import read_expectation
    from tdxstack.attest.judge import Verdict
    from tdxstack.attest.running import attest_td
    from tdxstack.cli.attestation_text import attestation
    from tdxstack.cli.evidence import read_policy

    expected = read_expectation(args.expect) if args.expect else None
    policy = read_policy(args.policy) if args.policy else None
    result, members = attest_td(args.name, expected, policy, args.output and args.output.absolute())
    report = output.document("attestation", members)
    output.emit(args, report, lambda: attestation(report))
    return ExitCode.DONE if result.verdict is Verdict.ACCEPTED else ExitCode.REJECTED

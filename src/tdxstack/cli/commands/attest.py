"""``tdxctl attest``: have a running TD prove itself anew, and judge the proof."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tdxstack.cli import output, td_names
from tdxstack.errors import ExitCode, UsageError


def add_parser(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "The exit status is 0 if the evidence was accepted, 3 if it was rejected."
    td_names.completed(parser.add_argument("name", metavar="NAME", help="the running TD"))
    parser.add_argument(
        "--expect",
        type=Path,
        metavar="FILE",
        help="compare with this prediction (tdxctl measure predict --json) instead of one from the TD's files",
    )
    parser.add_argument("--policy", metavar="FILE", help="appraisal policy (default: the strict one)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where the evidence is kept")
    remote = parser.add_argument_group("by a verifier service instead of this machine (tdxctl verifier serve)")
    remote.add_argument("--verifier", metavar="URL", help="the verifier; --policy then names one of its policies")
    remote.add_argument("--tls-ca", type=Path, metavar="FILE", help="CA that signed its TLS certificate")
    remote.add_argument("--ima", action="store_true", help="send the guest's run-time measurement list too")
    remote.add_argument("--token", type=Path, metavar="FILE", help="where the token goes (an EAR, a signed JWT)")
    output.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitCode:
    if args.verifier is not None:
        return _remotely(args)
    if args.tls_ca or args.ima or args.token:
        raise UsageError("--tls-ca, --ima and --token go with --verifier", hint="tdxctl attest --help")
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


def _remotely(args: argparse.Namespace) -> ExitCode:
    from tdxstack.attest.remote import attest_remotely, save_token
    from tdxstack.platform.verifier_client import VerifierClient

    if args.expect or args.output:
        raise UsageError(
            "--expect and --output do not go with --verifier", hint="the verifier has policies of its own"
        )
    client = VerifierClient(args.verifier, args.tls_ca)
    members = attest_remotely(args.name, client, ima=args.ima, policy=args.policy)
    if args.token:
        save_token(args.token, members["token"])
        output.say(f"token in {args.token}")
    output.emit(args, output.document("remote-attestation", members), lambda: _remote_text(members))
    return ExitCode.DONE if members["accepted"] else ExitCode.REJECTED


def _remote_text(members: dict[str, Any]) -> str:
    rows = [
        ("TD", members["td"]),
        ("verifier", members["verifier"]),
        ("policy", members["policy"]),
        ("TCB", members["status"]),
        ("event log", members["event_log"]),
        ("IMA list", members["ima_list"] or "not sent"),
        ("EAR", members["ear_status"] + (" (software platform: it protects nothing)" if members["software"] else "")),
        ("verdict", "accepted" if members["accepted"] else "rejected: " + ", ".join(members["failed"] or ["logs"])),
    ]
    return "\n".join(f"{name:<10} {text}" for name, text in rows)

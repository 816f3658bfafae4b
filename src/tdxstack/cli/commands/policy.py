"""``tdxctl policy``: check and explain appraisal policies, print their schema."""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from typing import TYPE_CHECKING

from tdxstack.cli import evidence, output
from tdxstack.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from tdxstack.measure import Prediction


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    check = output.add_verb(verbs, "check", "read a policy file and tell what in it is not the strict default")
    check.add_argument("policy", metavar="FILE", help="the policy (TOML or JSON)")
    output.add_json(check)
    check.set_defaults(run=run_check)
    explain = output.add_verb(verbs, "explain", "every setting with its value, and why the default is what it is")
    explain.add_argument("policy", metavar="FILE", nargs="?", help="the policy; default: the strict one")
    output.add_json(explain)
    explain.set_defaults(run=run_explain)
    pin = output.add_verb(verbs, "from-prediction", "the strict policy with the registers that were predicted")
    pin.add_argument("prediction", metavar="FILE", help="what 'tdxctl measure predict --json' printed, or -")
    pin.set_defaults(run=run_from_prediction)
    from_td = output.add_verb(verbs, "from-td", "the strict policy with the registers that a TD is expected to have")
    from_td.add_argument("td", metavar="NAME", help="the TD")
    from_td.set_defaults(run=run_from_td)
    schema = output.add_verb(verbs, "schema", "print the JSON Schema of a policy file")
    schema.set_defaults(run=run_schema)


def run_check(args: argparse.Namespace) -> ExitCode:
    """``policy check``."""
    policy = evidence.read_policy(args.policy)
    members = policy.to_members(defaults=False)
    body = output.document("policy-check", {"name": policy.name, "policy": members})

    def text() -> str:
        lines = [f"{policy.name}: a policy"]
        for section, values in members.items():
            if isinstance(values, dict):
                lines += [f"  {section}.{name} = {json.dumps(value)}" for name, value in values.items()]
        return "\n".join(lines) if len(lines) > 1 else f"{policy.name}: the strict default"

    output.emit(args, body, text)
    return ExitCode.DONE


def run_explain(args: argparse.Namespace) -> ExitCode:
    """``policy explain``."""
    policy = evidence.read_policy(args.policy)
    members = policy.to_members()
    settings = [
        {
            "name": f"{section}.{item.name}",
            "value": members[section][item.name],
            "default": getattr(getattr(policy, section), item.name) == item.default,
            "help": item.metadata["help"],
            "reason": item.metadata["reason"] or None,
        }
        for section in members
        if section not in ("schema", "name")
        for item in fields(getattr(policy, section))
    ]

    def text() -> str:
        lines = []
        for one in settings:
            changed = "" if one["default"] else "  (changed)"
            lines.append(f"{one['name']} = {json.dumps(one['value'])}{changed}")
            lines.append(f"    {one['help']}" + (f"; {one['reason']}" if one["reason"] else ""))
        return "\n".join(lines)

    output.emit(args, output.document("policy-explanation", {"name": policy.name, "settings": settings}), text)
    return ExitCode.DONE


def run_from_prediction(args: argparse.Namespace) -> ExitCode:
    """``policy from-prediction``."""
    from tdxstack.measure.export import prediction_from_members

    try:
        members = json.loads(evidence.read_bytes(args.prediction, "prediction"))
    except (ValueError, RecursionError):
        raise UsageError(f"{args.prediction}: not JSON", hint="tdxctl measure predict --json") from None
    return _pin("from-prediction", prediction_from_members(members))


def run_from_td(args: argparse.Namespace) -> ExitCode:
    """``policy from-td``: predicted from the TD's files, not asked of the TD."""
    from tdxstack.vm.expect import expect, started_argv
    from tdxstack.vm.observation import observe

    record = observe(args.td)
    return _pin(args.td, expect(record.spec, machine=started_argv(record)))


def _pin(name: str, prediction: Prediction) -> ExitCode:
    """Print the policy; what no register can say goes into its ``[events]``, or is told to be missing."""
    from tdxstack.dcap.policy import pinned
    from tdxstack.measure.export import event_settings

    events = event_settings(prediction)
    for index, reason in enumerate(prediction.reasons):
        if prediction.rtmr[index] is None:
            output.say(f"RTMR{index} is not in the policy: {reason}")
    if events:
        output.say("in place of RTMR2 the policy asks for an event log, which has to show command line and initrd")
    rtmrs = [None if value is None else value.hex() for value in prediction.rtmr]
    output.raw(pinned(name, prediction.mrtd.hex(), rtmrs, events).to_toml().encode())
    return ExitCode.DONE


def run_schema(_args: argparse.Namespace) -> ExitCode:
    """``policy schema``."""
    from tdxstack.dcap.policy import schema

    output.raw(json.dumps(schema(), indent=2).encode() + b"\n")
    return ExitCode.DONE

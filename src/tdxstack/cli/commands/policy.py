"""``tdxctl policy``: check and explain appraisal policies, print their schema."""

from __future__ import annotations

import argparse
import json
from dataclasses import fields

from tdxstack.cli import evidence, output
from tdxstack.errors import ExitCode


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    check = verbs.add_parser("check", help="read a policy file and tell what in it is not the strict default")
    check.add_argument("policy", metavar="FILE", help="the policy (TOML or JSON)")
    output.add_json(check)
    check.set_defaults(run=run_check)
    explain = verbs.add_parser("explain", help="every setting with its value, and why the default is what it is")
    explain.add_argument("policy", metavar="FILE", nargs="?", help="the policy; default: the strict one")
    output.add_json(explain)
    explain.set_defaults(run=run_explain)
    schema = verbs.add_parser("schema", help="print the JSON Schema of a policy file")
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
            "default": getattr(policy, section) is None
            or getattr(getattr(policy, section), item.name) == item.default,
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


def run_schema(_args: argparse.Namespace) -> ExitCode:
    """``policy schema``."""
    from tdxstack.dcap.policy import schema

    output.raw(json.dumps(schema(), indent=2).encode() + b"\n")
    return ExitCode.DONE

"""``tdxctl guest audit``: what a guest lets its host reach."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from tdxstack.cli import output
from tdxstack.errors import ExitCode

Ask = Callable[[argparse.Namespace, str, Mapping[str, Any]], dict[str, Any]]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The verb's own options."""
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="NAME",
        help="driver or ACPI table to allow besides the white paper's list (repeatable)",
    )


def run(args: argparse.Namespace, ask: Ask) -> ExitCode:
    """Judge, tell, and end with 1 where something is not on the list."""
    found = ask(args, "audit", {"allow": args.allow})
    output.emit(args, output.document("guest-audit", found), lambda: _told(found))
    return ExitCode.DONE if found["ok"] else ExitCode.FAILED


def _told(found: Mapping[str, Any]) -> str:
    lines = [
        f"{item['verdict']:<13}{item['bus']:<8}{item['name']:<18}{item['id']:<11}{item['driver'] or ''}".rstrip()
        for item in found["items"]
    ]
    count = found["findings"]
    lines.append(f"{count} not on the allow-list" if count else "everything is on the allow-list")
    if count:
        lines.append("  next: leave the device out of the TD, deny the module in the guest, or --allow NAME")
    return "\n".join(lines)

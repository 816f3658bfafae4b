"""``tdxctl host install``, ``uninstall`` and ``qcnl``: changes to this host, each shown before it is made."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tdxstack.cli import output
from tdxstack.errors import ExitCode, UsageError

GROUPS = ("repository", "packages", "kernel", "modules", "confinement", "attestation", "services")


def add_install(parser: argparse.ArgumentParser) -> None:
    parser.description = "Show what is missing on this host for it to run TDs, and with --yes install it."
    _common(parser)
    parser.add_argument(
        "--stack", choices=("upstream", "1.5"), default="upstream", help="which stack (default: upstream)"
    )
    parser.add_argument("--repository", default="", metavar="DIR", help="host_repo with the stack's packages")
    parser.add_argument("--kernel", default="", metavar="VERSION", help="make this installed kernel the default")
    parser.add_argument("--user", action="append", default=[], metavar="NAME", help="may run TDs (may be repeated)")
    pccs = "https://localhost:8081/sgx/certification/v4/"
    parser.add_argument("--pccs-url", default=pccs, metavar="URL", help=f"where QGS asks (default: {pccs})")
    parser.add_argument(
        "--only", action="append", choices=GROUPS, default=[], help="only this part (may be repeated)"
    )
    parser.add_argument("--skip", action="append", choices=GROUPS, default=[], help="all but this part")
    output.add_json(parser)
    parser.set_defaults(run=install)


def add_uninstall(parser: argparse.ArgumentParser) -> None:
    parser.description = "Put back what host install changed; files that were changed since are left alone."
    _common(parser)
    parser.set_defaults(run=uninstall)


def add_qcnl(parser: argparse.ArgumentParser) -> None:
    parser.description = "Show, check or edit the quote provider's configuration (/etc/sgx_default_qcnl.conf)."
    parser.add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help="a tree instead of this machine")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="set a value, comments are kept"
    )
    parser.add_argument(
        "--check", action="store_true", help="tell what is wrong with it; exit status 1 if anything is"
    )
    parser.add_argument("--dry-run", action="store_true", help="with --set: show the change, write nothing")
    output.add_json(parser)
    parser.set_defaults(run=qcnl)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--root", type=Path, default=Path("/"), metavar="DIR", help="a tree: programs are not run there"
    )
    parser.add_argument("--dry-run", action="store_true", help="show the plan only (as without --yes)")
    parser.add_argument("--yes", action="store_true", help="carry it out")


def install(args: argparse.Namespace) -> ExitCode:
    """Plan, and with --yes install."""
    from tdxstack.deploy import step
    from tdxstack.deploy.install import Planner, Stack, Wanted

    groups = frozenset(args.only or GROUPS) - frozenset(args.skip)
    wanted = Wanted(Stack(args.stack), args.repository, args.kernel, tuple(args.user), args.pccs_url, groups)
    steps = Planner(args.root, wanted).steps()
    act = args.yes and not args.dry_run
    lines = [one.text(args.root) for one in steps]
    body = {
        "done": act,
        "steps": [{"group": one.group, "text": text} for one, text in zip(steps, lines, strict=True)],
    }
    output.emit(args, output.document("host-install", body), lambda: "\n".join(lines) or "nothing to do")
    if act:
        step.apply(args.root, steps, _runner(args.root), output.step)
        _after(steps)
    elif steps:
        output.say(f"{len(steps)} steps; nothing was changed: give --yes to carry them out")
    return ExitCode.DONE


def _after(steps: Sequence[object]) -> None:
    if steps:
        output.say("done. Reboot into the TDX kernel, enable TDX in the BIOS, then: tdxctl host check")


def _runner(root: Path) -> Callable[[Sequence[str]], None]:
    from tdxstack.deploy.step import run_program

    if root == Path("/"):
        return run_program

    def only_say(argv: Sequence[str]) -> None:
        output.say(f"  not run in a tree: {' '.join(argv)}")

    return only_say


def uninstall(args: argparse.Namespace) -> ExitCode:
    """Put back what install changed."""
    from tdxstack.deploy import step

    plan = step.undo_plan(args.root)
    for one in plan:
        output.say(f"  {one.text}")
    if not plan:
        output.say("nothing to do: tdxctl installed nothing here")
    elif args.dry_run or not args.yes:
        output.say("nothing was changed: give --yes to carry it out")
    else:
        step.undo(args.root, plan, _runner(args.root), output.step)
    return ExitCode.DONE


_KINDS = {bool: "true or false", int: "a whole number", float: "a number", dict: "a JSON object"}


def _value(key: str, text: str) -> str | bool | int | float | dict[str, Any]:
    import json

    from tdxstack.wire.qcnl import KEYS, fits

    kind = KEYS.get(key)
    if kind is None:
        raise UsageError(f"{key}: no key that can be set", hint=f"one of {', '.join(sorted(KEYS))}")
    if kind is str:
        return text
    try:
        value: bool | int | float | dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError):
        value = {} if kind is not dict else 0
    if not fits(key, value):
        raise UsageError(f"{key} is {_KINDS[kind]}, not {text}")
    return value


def qcnl(args: argparse.Namespace) -> ExitCode:
    """Show, check or edit the configuration."""
    from tdxstack.deploy.install import QCNL
    from tdxstack.system.files import write_atomic
    from tdxstack.wire.qcnl import QcnlConfig

    path = args.root / QCNL.lstrip("/")
    config = QcnlConfig.from_text(path.read_text(errors="replace")) if path.is_file() else QcnlConfig.empty()
    if args.check:
        return _check(args)
    if args.set:
        if wrong := next((one for one in args.set if "=" not in one), None):
            raise UsageError(f"--set {wrong}: no value", hint="--set KEY=VALUE")
        pairs = [one.partition("=") for one in args.set]
        edited = config.with_values({key: _value(key, value) for key, _, value in pairs})
        output.say(_difference(str(path), config.text, edited.text) or f"{path}: nothing to change")
        if edited.text != config.text and not args.dry_run:
            if path.is_file():
                write_atomic(path.with_name(f"{path.name}.old"), config.text)
            write_atomic(path, edited.text)
            output.say(f"written; the file of before is {path.name}.old. Next: systemctl restart qgsd")
        config = edited
    document = output.document("host-qcnl", {"file": str(path), "values": dict(config.values)})
    output.emit(
        args, document, lambda: "\n".join(f"{key} = {value}" for key, value in config.values.items()) or "(empty)"
    )
    return ExitCode.DONE


def _check(args: argparse.Namespace) -> ExitCode:
    from tdxstack.platform.linux_open_host import open_host
    from tdxstack.preflight import configuration, diagnosis

    found = configuration.problems(open_host(None if args.root == Path("/") else args.root), absent_counts=True)
    document = output.document(
        "host-diagnosis", {"ok": not found, "problems": [one.body() for one in found], "logs": []}
    )
    output.emit(args, document, lambda: diagnosis.text(found, []))
    return ExitCode.FAILED if found else ExitCode.DONE


def _difference(path: str, old: str, new: str) -> str:
    import difflib

    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), path, path, lineterm="", n=1)
    return "\n".join(lines)

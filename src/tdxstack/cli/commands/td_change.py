"""The verbs of ``tdxctl td`` that change a TD: set, clone, reboot, save, snapshot, autostart; and its events."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from typing import Any

from tdxstack.cli import output, td_names, td_text
from tdxstack.errors import ExitCode, UsageError

Run = Callable[[argparse.Namespace], ExitCode]
AddVerb = Callable[..., argparse.ArgumentParser]
FOLLOW_INTERVAL = 0.2


def add_verbs(add: AddVerb, add_settings: Callable[[argparse.ArgumentParser], None]) -> None:
    """Declare the verbs; ``add`` makes a verb's parser, ``add_settings`` its options for settings."""
    change = add("set", run_set, "change settings of a stopped TD, e.g. --memory 4G --vcpus 2")
    change.add_argument("--unset", action="append", default=[], metavar="SETTING", help="set back to its default")
    td_text.add_changing(change, "print the new specification and change nothing")
    add_settings(change)
    clone = add("clone", run_clone, "define a second TD with the settings and disk of a stopped one")
    clone.add_argument("new_name", metavar="NEW-NAME", help="name of the copy")
    td_text.add_changing(clone)
    reboot = add("reboot", run_reboot, "reboot a TD")
    reboot.add_argument(
        "--mode", choices=("auto", "acpi", "agent", "force"), default="auto", help="how (default: auto)"
    )
    td_text.add_timeout(reboot, 60.0, "seconds the guest may take")
    td_text.add_changing(reboot)
    td_text.add_changing(
        add("save", run_save, "take a TD's memory to disk and end it; `td start` goes on from there")
    )
    _add_snapshot(add("snapshot", run_snapshot, "keep a running TD as it is, to go back to it later", named=False))
    auto = add("autostart", run_autostart, "start every TD whose setting autostart is on", named=False)
    td_text.add_changing(auto)
    events = add("events", run_events, "what happened to a TD")
    events.add_argument("--follow", "-f", action="store_true", help="go on printing what happens until it is deleted")
    events.add_argument("--json", action="store_true", help="print each event as a line of JSON")


def _add_snapshot(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("create", "list", "revert", "delete"), help="what to do")
    td_names.completed(parser.add_argument("name", metavar="NAME", help="name of the TD"))
    parser.add_argument("label", nargs="?", metavar="SNAPSHOT", help="name of the snapshot (not for list)")
    td_text.add_changing(parser)


def run_set(args: argparse.Namespace) -> ExitCode:
    from tdxstack.cli.commands.td_images import resolve, take_pending
    from tdxstack.vm import changes
    from tdxstack.vm.lifecycle import status
    from tdxstack.vm.spec import SETTINGS, TdSpec
    from tdxstack.vm.spec_rules import checked

    options = {setting.name: getattr(args, f"set_{setting.name}", None) for setting in SETTINGS}
    values: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    values |= _unset(args.unset, values)
    if not values:
        raise UsageError("which settings?", hint=f"tdxctl td set {args.name} --memory 4G; tdxctl td set --help")
    present = status(args.name).spec
    pending = take_pending(values) if args.dry_run else {}
    values = resolve(values, boot=present.boot.value)
    if args.dry_run:
        merged = {**present.to_mapping(), **values}
        spec = checked(TdSpec.from_mapping({name: value for name, value in merged.items() if value is not None}))
        return td_text.specification(args, spec, pending)
    return td_text.told(args, changes.change(args.name, values), lambda: f"{args.name} changed")


def _unset(names: list[str], given: Mapping[str, Any]) -> dict[str, None]:
    """The settings that are to have their defaults again. Raises UsageError for what is none, or is given too."""
    from tdxstack.vm.spec import SETTINGS

    known = {setting.name for setting in SETTINGS}
    unset = [name.replace("-", "_") for name in names]
    for name in unset:
        if name not in known:
            raise UsageError(f"--unset {name}: there is no such setting", hint=f"one of {', '.join(sorted(known))}")
        if name in given:
            raise UsageError(f"{name} is both set and unset", hint="leave one of them out")
    return dict.fromkeys(unset)


def run_clone(args: argparse.Namespace) -> ExitCode:
    from tdxstack.vm import changes

    if args.dry_run:
        return td_text.would(args, (args.name, f"define {args.new_name} with the settings and disk of {args.name}"))
    record = changes.clone(args.name, args.new_name)
    return td_text.told(args, record, lambda: f"{record.name} defined; next: tdxctl td start {record.name}")


def run_reboot(args: argparse.Namespace) -> ExitCode:
    from tdxstack.vm import changes

    if args.dry_run:
        return td_text.would(args, (args.name, f"reboot {args.name} by {args.mode}"))
    record = changes.reboot(args.name, args.mode, timeout=args.timeout, progress=output.step)
    return td_text.told(args, record, lambda: f"{args.name} reboots")


def run_save(args: argparse.Namespace) -> ExitCode:
    from tdxstack.vm import changes

    if args.dry_run:
        return td_text.would(args, (args.name, f"save {args.name}"))
    record = changes.save(args.name)
    return td_text.told(args, record, lambda: f"{args.name} is saved; next: tdxctl td start {args.name}")


def run_snapshot(args: argparse.Namespace) -> ExitCode:
    from tdxstack.vm import changes

    if args.action == "list":
        return _list_snapshots(args, "")
    if args.label is None:
        raise UsageError("which snapshot?", hint=f"tdxctl td snapshot {args.action} {args.name} SNAPSHOT")
    if args.dry_run:
        return td_text.would(args, (args.name, f"{args.action} snapshot {args.label} of {args.name}"))
    actions = {
        "create": changes.snapshot_create,
        "revert": changes.snapshot_revert,
        "delete": changes.snapshot_delete,
    }
    actions[args.action](args.name, args.label)
    return _list_snapshots(args, f"{args.name}: snapshot {args.label}: {args.action} done")


def _list_snapshots(args: argparse.Namespace, done: str) -> ExitCode:
    """The snapshots that a TD has; as text, what was ``done`` instead."""
    from tdxstack.vm import saved
    from tdxstack.vm.lifecycle import status

    status(args.name)
    found = [{"name": label, "created": facts["created"]} for label, facts in saved.snapshots(args.name)]
    body = output.document("td-snapshots", {"snapshots": found})
    listed = "\n".join(f"{one['name']:<24}{one['created']}" for one in found) or "no snapshots"
    output.emit(args, body, lambda: done or listed)
    return ExitCode.DONE


def run_autostart(args: argparse.Namespace) -> ExitCode:
    from tdxstack.vm import changes

    if args.dry_run:
        return td_text.would(args, *((name, f"start {name}") for name in changes.to_start()))
    outcome = changes.start_all(output.step)
    body = output.document("td-autostart", {"tds": outcome})
    output.emit(
        args, body, lambda: "\n".join(f"{name}: {text}" for name, text in outcome.items()) or "nothing to start"
    )
    return ExitCode.DONE if all(text == "running" for text in outcome.values()) else ExitCode.FAILED


def run_events(args: argparse.Namespace) -> ExitCode:
    import time

    from tdxstack.vm import events
    from tdxstack.vm.lifecycle import status
    from tdxstack.vm.record import Place

    status(args.name)
    path = events.path(args.name)
    offset = 0
    while True:
        if path.exists():
            offset = min(offset, path.stat().st_size)
            with path.open("rb") as stream:
                stream.seek(offset)
                for line in stream:
                    output.raw(line if args.json else _told(line))
                offset = stream.tell()
        if not args.follow or not Place(args.name).record.exists():
            return ExitCode.DONE
        time.sleep(FOLLOW_INTERVAL)


def _told(line: bytes) -> bytes:
    try:
        event = json.loads(line)
    except ValueError:
        return b""
    facts = {key: value for key, value in event.items() if key not in ("time", "event", "data") and value}
    words = " ".join(f"{key}={_word(value)}" for key, value in {**facts, **event.get("data", {})}.items())
    return f"{event['time']}  {event['event']:<16} {words}".rstrip().encode() + b"\n"


def _word(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)

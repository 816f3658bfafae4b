"""``tdxctl td``: define, start, watch, reach and end trust domains."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tdxstack.cli import output, td_names, td_text
from tdxstack.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from tdxstack.vm.record import TdRecord

Run = Callable[[argparse.Namespace], ExitCode]


def add_parser(parser: argparse.ArgumentParser) -> None:
    from tdxstack.cli.commands import td_change, td_debug, td_reach

    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    _add_create(verbs)
    _add_start(verbs)
    stop = _verb(verbs, "stop", run_stop, "power a TD off")
    stop.add_argument(
        "--mode", choices=("auto", "acpi", "agent", "force"), default="auto", help="how (default: auto)"
    )
    td_text.add_timeout(stop, 60.0, "seconds the guest may take")
    td_text.add_changing(stop)
    for name, run, text in (
        ("suspend", run_suspend, "halt a running TD's CPUs"),
        ("resume", run_resume, "let a suspended TD's CPUs run"),
    ):
        td_text.add_changing(_verb(verbs, name, run, text))
    output.add_json(_verb(verbs, "show", run_show, "everything about one TD"))
    listing = _verb(verbs, "list", run_list, "all TDs and their states", named=False)
    listing.add_argument("--names", action="store_true", help="print the names alone, and look at none")
    output.add_json(listing)
    output.add_json(_verb(verbs, "capacity", run_capacity, "how many TDs fit here, and what they use", named=False))
    _add_wait(verbs)
    _add_delete(verbs)
    schema = _verb(verbs, "schema", run_schema, "JSON Schema of a TD specification", named=False)
    schema.set_defaults(json=True)

    def add(name: str, run: Run, text: str, **options: bool) -> argparse.ArgumentParser:
        return _verb(verbs, name, run, text, **options)

    td_reach.add_verbs(add)
    td_change.add_verbs(add, add_settings)
    td_debug.add_verbs(add)


def _verb(verbs: Any, name: str, run: Run, text: str, *, named: bool = True) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=text, description=text, formatter_class=output.help_formatter()
    )
    if named:
        td_names.completed(parser.add_argument("name", metavar="NAME", help="name of the TD"))
    parser.set_defaults(run=run)
    return parser


def _add_create(verbs: Any) -> None:
    parser = _verb(
        verbs, "create", run_create, "define a TD, from options or a TOML file; starts nothing", named=False
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="name of the TD (default: the TOML file's)")
    parser.add_argument("--spec", metavar="FILE", help="TOML file with settings; options here take precedence")
    td_text.add_changing(parser, "print the specification as TOML and define nothing")
    add_settings(parser)


def _add_start(verbs: Any) -> None:
    start = _verb(verbs, "start", run_start, "start a TD; returns when its machine runs")
    start.add_argument("--wait", action="store_true", help="return when the guest's agent is ready")
    td_text.add_timeout(start, 300.0, "seconds that --wait may take")
    start.add_argument("--discard-saved", action="store_true", help="boot afresh although its state was saved")
    start.add_argument(
        "--debug",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="set the TD's setting debug first: halted before its first instruction, for tdxctl td gdb",
    )
    start.add_argument(
        "--dialect",
        metavar="NAME",
        help="set the TD's setting dialect first: auto, software, tdx15, canonical or upstream",
    )
    td_text.add_changing(start, "print QEMU's argument list and start nothing")
    start.add_argument("--print-xml", action="store_true", help="print libvirt's domain XML and start nothing")


def _add_delete(verbs: Any) -> None:
    delete = _verb(verbs, "delete", run_delete, "forget a TD with its overlay and logs", named=False)
    td_names.completed(delete.add_argument("names", nargs="+", metavar="NAME", help="TDs to delete"))
    delete.add_argument("--yes", action="store_true", help="do not ask; stop a running TD by force")
    gone = "ask no libvirt and no other host, which may be gone for good: what they keep of it stays there"
    delete.add_argument("--forget", action="store_true", help=gone)
    td_text.add_changing(delete)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """An option for each setting of a TD, as ``set_NAME``."""
    from tdxstack.vm.spec import SETTINGS

    group = parser.add_argument_group("settings", "of the TD; `tdxctl td schema` has their types and defaults")
    for setting in SETTINGS:
        if setting.name == "name":
            continue
        options: dict[str, Any] = {"dest": f"set_{setting.name}", "default": None}
        help_text = setting.help.replace("%", "%%")
        if setting.codec.metavar == "BOOL":
            group.add_argument(setting.flag, action=argparse.BooleanOptionalAction, help=help_text, **options)
        else:
            action = "append" if setting.repeated else "store"
            group.add_argument(setting.flag, action=action, metavar=setting.codec.metavar, help=help_text, **options)


def _add_wait(verbs: Any) -> None:
    wait = _verb(verbs, "wait", run_wait, "wait for a TD's agent, its sshd or a state")
    wait.add_argument(
        "--for",
        dest="goal",
        default="agent",
        choices=("agent", "ssh", "running", "paused", "stopped", "saved", "failed"),
        help="what to wait for (default: agent)",
    )
    td_text.add_timeout(wait, 300.0, "seconds to wait")
    output.add_json(wait)


def run_create(args: argparse.Namespace) -> ExitCode:
    from pathlib import Path

    from tdxstack.cli.commands.td_images import NAMED, resolve, take_pending
    from tdxstack.vm import lifecycle, spec_file
    from tdxstack.vm.sites import site_of
    from tdxstack.vm.spec import SETTINGS, TdSpec
    from tdxstack.vm.spec_rules import checked

    values = spec_file.read_settings(Path(args.spec), NAMED) if args.spec else {}
    options = {setting.name: getattr(args, f"set_{setting.name}", None) for setting in SETTINGS}
    values |= {name: value for name, value in options.items() if value is not None}
    if args.name:
        values["name"] = args.name
    pending = take_pending(values) if args.dry_run else {}
    spec = checked(TdSpec.from_mapping(resolve(values)))
    if args.dry_run:
        site_of(spec).check(spec)
        return td_text.specification(args, spec, pending)
    record = lifecycle.create(spec)
    return td_text.told(args, record, lambda: f"{record.name} defined; next: tdxctl td start {record.name}")


def run_start(args: argparse.Namespace) -> ExitCode:
    from tdxstack.vm import lifecycle

    if args.print_xml:
        return _print_xml(args)
    if args.dry_run:
        return _preview(args)
    if _settings(args):
        _keep_settings(args)
    record = lifecycle.start(args.name, progress=output.step, discard_saved=args.discard_saved)
    if args.wait:
        output.step("waiting for the guest's agent")
        lifecycle.wait_ready(args.name, args.timeout)
    return td_text.told(args, record, lambda: _started(record))


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """Settings of the TD that this start's options give."""
    given = {"debug": args.debug, "dialect": args.dialect}
    return {name: value for name, value in given.items() if value is not None}


def _keep_settings(args: argparse.Namespace) -> None:
    """Keep ``--debug`` and ``--dialect`` in the TD's settings: `td show` tells them, and a restart does the same."""
    from tdxstack.vm import changes, plan
    from tdxstack.vm.lifecycle import status
    from tdxstack.vm.spec import Boot

    record = status(args.name)
    if args.debug and args.wait:
        raise UsageError("a TD that is debugged waits for gdb, its agent cannot report", hint="leave --wait out")
    wanted = _with_settings(args, record)
    if wanted.spec != record.spec:
        plan.prepare(wanted)
        changes.change(args.name, _settings(args))
    if args.debug and record.spec.boot is not Boot.DIRECT:
        output.say(
            "nokaslr is not set: add it to the boot loader's command line on the disk, or symbols will not fit"
        )


def _with_settings(args: argparse.Namespace, record: TdRecord) -> TdRecord:
    """The record as ``--debug`` and ``--dialect`` would have it."""
    import dataclasses

    return dataclasses.replace(record, spec=dataclasses.replace(record.spec, **_settings(args)))


def _preview(args: argparse.Namespace) -> ExitCode:
    import shlex

    from tdxstack.vm import plan
    from tdxstack.vm.lifecycle import status

    argv, run = plan.preview(_with_settings(args, status(args.name)))
    body = {"argv": argv, "dialect": run.dialect, "accelerator": run.accelerator, "firmware": run.firmware}
    output.emit(args, output.document("td-argv", body), lambda: shlex.join(argv))
    return ExitCode.DONE


def _print_xml(args: argparse.Namespace) -> ExitCode:
    from tdxstack.vm import plan
    from tdxstack.vm.lifecycle import status

    xml = plan.preview_xml(_with_settings(args, status(args.name)))
    output.emit(args, output.document("td-xml", {"xml": xml}), lambda: xml)
    return ExitCode.DONE


def _started(record: TdRecord) -> str:
    reach = f"; ssh port {record.run.ssh_port}" if record.run.ssh_port else ""
    return f"{record.name} is {record.state.value} ({record.run.dialect}, {record.run.accelerator}{reach})"


def run_stop(args: argparse.Namespace) -> ExitCode:
    from tdxstack.vm import lifecycle

    if args.dry_run:
        return td_text.would(args, (args.name, f"stop {args.name} by {args.mode}"))
    return _tell(args, lifecycle.stop(args.name, args.mode, timeout=args.timeout))


def run_suspend(args: argparse.Namespace) -> ExitCode:
    from tdxstack.vm import lifecycle

    if args.dry_run:
        return td_text.would(args, (args.name, f"suspend {args.name}"))
    return _tell(args, lifecycle.suspend(args.name))


def run_resume(args: argparse.Namespace) -> ExitCode:
    from tdxstack.vm import lifecycle

    if args.dry_run:
        return td_text.would(args, (args.name, f"resume {args.name}"))
    return _tell(args, lifecycle.resume(args.name))


def run_show(args: argparse.Namespace) -> ExitCode:
    from tdxstack.vm.lifecycle import status

    record = status(args.name)
    return td_text.told(args, record, lambda: td_text.described(record))


def _tell(args: argparse.Namespace, record: TdRecord) -> ExitCode:
    return td_text.told(args, record, lambda: f"{record.name} is {record.state.value}")


def run_list(args: argparse.Namespace) -> ExitCode:
    from tdxstack.vm.lifecycle import list_all
    from tdxstack.vm.record import names

    if args.names:
        found = names()
        output.emit(args, output.document("td-names", {"names": found}), lambda: "\n".join(found))
        return ExitCode.DONE
    records = list_all()
    body = {"tds": [td_text.document(record) for record in records] if args.json else []}
    output.emit(args, output.document("td-list", body), lambda: td_text.table(records))
    return ExitCode.DONE


def run_capacity(args: argparse.Namespace) -> ExitCode:
    from tdxstack.cli.commands import td_capacity

    return td_capacity.run(args)


def run_wait(args: argparse.Namespace) -> ExitCode:
    from tdxstack.vm import waiting

    record = waiting.wait_for(args.name, args.goal, args.timeout)
    return td_text.told(args, record, lambda: f"{args.name}: {args.goal}")


def run_delete(args: argparse.Namespace) -> ExitCode:
    from tdxstack.vm import lifecycle
    from tdxstack.vm.record import Place

    names = list(dict.fromkeys(args.names))
    for name in names:
        if not Place(name).directory.exists():
            raise UsageError(f"there is no TD {name!r}", hint="tdxctl td list")
    if args.dry_run:
        return td_text.would(args, *((name, f"delete {Place(name).directory}") for name in names))
    if not output.confirmed(args, f"Delete {', '.join(names)} with all that was written to them?"):
        return ExitCode.FAILED
    for name in names:
        lifecycle.delete(name, force=args.yes, forget=args.forget)
        output.say(f"{name} deleted")
    if args.json:
        output.emit(args, output.document("td-deleted", {"deleted": names}), str)
    return ExitCode.DONE


def run_schema(args: argparse.Namespace) -> ExitCode:
    from tdxstack.vm.spec import json_schema

    output.emit(args, json_schema(), lambda: "")
    return ExitCode.DONE

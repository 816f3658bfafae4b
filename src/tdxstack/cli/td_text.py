"""How ``tdxctl td`` tells of TDs: as text, and with ``--json`` as documents; after a change, and in its dry run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tdxstack.cli import output
from tdxstack.errors import ExitCode, SystemFault

if TYPE_CHECKING:
    from tdxstack.vm.record import TdRecord
    from tdxstack.vm.spec import TdSpec


#: A day: what waits longer hangs.
MAX_SECONDS = 86400.0


def add_changing(parser: argparse.ArgumentParser, dry_run: str = "say what would be done and do nothing") -> None:
    """Declare what every verb has that changes a TD: ``--dry-run`` and ``--json``."""
    parser.add_argument("--dry-run", action="store_true", help=dry_run)
    output.add_json(parser)


def add_timeout(parser: argparse.ArgumentParser, default: float, text: str) -> None:
    """Declare ``--timeout``, in seconds."""
    parser.add_argument("--timeout", type=_seconds, default=default, metavar="S", help=f"{text} ({default:g})")


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"{text} is no time to wait: 0 to {MAX_SECONDS:g} seconds")
    return seconds


def told(args: argparse.Namespace, record: TdRecord, human: Callable[[], str]) -> ExitCode:
    """Tell how a TD stands after a change: its document, or ``human()``."""
    output.emit(args, document(record), human)
    return ExitCode.DONE


def specification(args: argparse.Namespace, spec: TdSpec, pending: Mapping[str, Any]) -> ExitCode:
    """Tell which settings a TD would have; ``pending`` are those whose files would be downloaded first."""
    from tdxstack.vm.spec_file import dumps_settings

    settings = {**spec.to_mapping(), **pending}
    for name, value in pending.items():
        output.say(f"would download the {name} {value}")
    output.emit(args, output.document("td-spec", settings), lambda: dumps_settings(settings))
    return ExitCode.DONE


def would(args: argparse.Namespace, *plans: tuple[str, str]) -> ExitCode:
    """Tell what would be done, and to TDs in which states: (name, what), e.g. ``("web", "suspend web")``.

    Raises:
        UsageError: there is no TD of that name.
    """
    from tdxstack.vm.lifecycle import status

    found = []
    for name, what in plans:
        try:
            state = status(name).state.value
        except SystemFault:
            state = "damaged"
        found.append({"td": name, "state": state, "would": what})
    lines = "\n".join(f"would {one['would']} (it is {one['state']})" for one in found)
    if args.json:
        output.emit(args, output.document("td-plan", {"plan": found}), str)
    elif lines:
        output.say(lines)
    return ExitCode.DONE


def command(args: argparse.Namespace, argv: list[str]) -> ExitCode:
    """Tell which program would be started."""
    import shlex

    output.emit(args, output.document("td-argv", {"argv": argv}), lambda: shlex.join(argv))
    return ExitCode.DONE


def document(record: TdRecord) -> dict[str, Any]:
    values = record.to_mapping()
    console_log = record.place.console_log
    files = {"directory": str(console_log.parent), "console_log": str(console_log)}
    return {**values, "schema": "tdxstack/td/v1", "files": files}


def table(records: list[TdRecord]) -> str:
    from tdxstack.vm.settings import write_size

    if not records:
        return "no TDs; next: tdxctl td create NAME --kernel FILE --image FILE"
    rows = [("NAME", "STATE", "TYPE", "MEMORY", "VCPUS", "SSH", "SINCE", "REASON")]
    for record in records:
        spec = record.spec
        live = record.state.value in ("running", "paused", "starting", "stopping")
        ssh = str(record.run.ssh_port or "-") if live else "-"
        size = write_size(spec.memory)
        rows.append(
            (
                spec.name,
                record.state.value,
                spec.type.value,
                size,
                str(spec.vcpus),
                ssh,
                record.since,
                record.reason or "",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _reached(record: TdRecord) -> list[tuple[str, Any]]:
    """How a TD that runs is reached."""
    run = record.run
    return [
        ("ssh", run.ssh_port and f"127.0.0.1:{run.ssh_port}"),
        ("ports", " ".join(run.ports)),
        ("vsock CID", run.vsock_cid),
        ("QEMU", run.qemu_pid and f"process {run.qemu_pid}"),
    ]


def described(record: TdRecord) -> str:
    from tdxstack.vm.state import ACTIVE

    run, place = record.run, record.place
    facts: list[tuple[str, Any]] = [
        ("name", record.name),
        ("state", record.state.value),
        ("reason", record.reason),
        ("since", record.since),
        ("dialect", run.dialect),
        ("accelerator", run.accelerator),
        ("firmware", run.firmware),
        ("firmware sha256", run.firmware_sha256),
        *(_reached(record) if record.state in ACTIVE else ()),
        ("MAC", run.mac),
        ("directory", place.directory),
        *((key.replace("_", " "), value) for key, value in record.spec.to_mapping().items() if key != "name"),
    ]
    seen: set[str] = set()
    lines = []
    for key, value in facts:
        if value and key not in seen:
            seen.add(key)
            lines.append(f"{key + ':':<18}{value}")
    return "\n".join(lines)

"""The verbs of ``tdxctl td`` that look into a TD from outside: gdb, check-encryption."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tdxstack.cli import output, td_text
from tdxstack.errors import ExitCode

if TYPE_CHECKING:
    from tdxstack.vm.encryption import EncryptionCheck

AddVerb = Callable[..., argparse.ArgumentParser]


def add_verbs(add: AddVerb) -> None:
    """Declare the verbs; ``add`` makes a verb's parser with its NAME."""
    gdb = add("gdb", run_gdb, "connect gdb to a TD that was started with --debug")
    gdb.add_argument("--symbols", type=Path, metavar="FILE", help="vmlinux with debug information")
    _add_kernel(gdb)
    gdb.add_argument(
        "--break",
        dest="breakpoint",
        default="start_kernel",
        metavar="WHERE",
        help="hardware breakpoint to set first (default: start_kernel; '' for none)",
    )
    gdb.add_argument("--ex", action="append", default=[], metavar="COMMAND", help="gdb command to run (repeatable)")
    gdb.add_argument("--batch", action="store_true", help="end gdb after the commands; the TD then runs on")
    td_text.add_changing(gdb, "print gdb's command line and start nothing")
    check = add("check-encryption", run_check, "look for a TD's kernel in its memory, as its host sees it")
    _add_kernel(check)
    output.add_json(check)


def _add_kernel(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kernel", type=Path, metavar="FILE", help="the kernel, where the TD boots one from its disk"
    )


def run_gdb(args: argparse.Namespace) -> ExitCode:
    from tdxstack.system import process
    from tdxstack.vm import debugger
    from tdxstack.vm.lifecycle import status

    record = status(args.name)
    socket = debugger.gdb_socket(record)
    symbols = debugger.symbols_for(record, args.symbols, args.kernel)
    argv = debugger.gdb_argv(socket, symbols, breakpoint=args.breakpoint or None, commands=args.ex, batch=args.batch)
    if args.dry_run:
        return td_text.command(args, argv)
    return process.become(argv)


def run_check(args: argparse.Namespace) -> ExitCode:
    from tdxstack.vm.encryption import check_encryption

    found = check_encryption(args.name, kernel=args.kernel)
    body = output.document("td-encryption", {"td": args.name, **found.to_mapping()})
    output.emit(args, body, lambda: _told(args.name, found))
    return ExitCode.DONE if found.encrypted else ExitCode.FAILED


def _told(name: str, found: EncryptionCheck) -> str:
    return "\n".join(
        [
            f"{name}: {found.verdict}: {found.reason}",
            f"  kernel's .text   {found.kernel_bytes.hex(' ')}",
            f"  the VMM sees     {found.vmm_bytes.hex(' ')}  at guest physical {found.address:#x}",
            f"  {found.seen} of {found.compared} pieces of the text seen, in {found.scanned_bytes >> 20} MiB",
        ]
    )

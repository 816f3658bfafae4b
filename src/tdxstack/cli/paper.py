"""The commands of the white paper "Linux Stacks for Intel TDX 1.5" (3.4.2.3, 4.2.4), under their own names.

``tdx_eventlogs``, ``tdx_tdreport``, ``tdx_verify_rtmr`` and ``ovmfkeyenroll`` take the paper's arguments.
Unlike the originals they fail with a non-zero status when something does not match.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn
from uuid import UUID

from tdxstack.cli import output
from tdxstack.cli.main import main
from tdxstack.errors import ExitCode, TdxStackError, UsageError
from tdxstack.measure.secure_boot import SECURE_BOOT_ENABLE
from tdxstack.wire.efi.varstore import Variable


def tdx_eventlogs() -> NoReturn:
    """``tdx_eventlogs``: the TD's event log, then the registers that it leads to, compared with the TD's own."""
    arguments = sys.argv[1:]
    status = main(["eventlog", "show", *arguments])
    if status == ExitCode.DONE and not {"--json", "--yaml"} & set(arguments):
        status = main(["eventlog", "replay", *arguments])
    sys.exit(status)


def tdx_tdreport() -> NoReturn:
    """``tdx_tdreport``: the TD's report, with the values of its registers."""
    sys.exit(main(["guest", "report", *sys.argv[1:]]))


def tdx_verify_rtmr() -> NoReturn:
    """``tdx_verify_rtmr``: replay the TD's event log and compare with its registers; exit 3 where they differ."""
    sys.exit(main(["eventlog", "replay", *sys.argv[1:]]))


def ovmfkeyenroll() -> NoReturn:
    """``ovmfkeyenroll``: write secure boot keys into ``OVMF.fd``; makes ``OVMF.sb.fd`` in this directory."""
    sys.exit(run_ovmfkeyenroll(sys.argv[1:]))


def run_ovmfkeyenroll(argv: Sequence[str]) -> int:
    """Run ``ovmfkeyenroll`` and return its exit status."""
    parser = argparse.ArgumentParser(prog="ovmfkeyenroll", description=run_ovmfkeyenroll.__doc__)
    parser.description = "Enrol secure boot keys into OVMF.fd; the same inputs give the same bytes."
    parser.add_argument("-fd", metavar="FILE", type=Path, required=True, help="OVMF.fd")
    for option, text in (("-pk", "platform key"), ("-kek", "key exchange key"), ("-db", "signature database key")):
        parser.add_argument(option, nargs=2, metavar=("GUID", "CER"), help=f"{text}: owner, certificate")
    parser.add_argument(
        "-dbx", nargs="+", metavar="GUID BIN", help="signed update of dbx; its owner is in the update"
    )
    text = "secure boot on (first byte 1, the default) or off (0); the GUID must be SecureBootEnable's"
    parser.add_argument("-secure_boot", nargs=2, metavar=("GUID", "BIN"), help=text)
    text = "directory for NAME.sb.fd, or a file to write (default: this directory)"
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, help=text)
    try:
        args = parser.parse_args(list(argv))
        for line in _enroll(args, _target(args)):
            output.raw(line.encode() + b"\n")
    except SystemExit as stop:
        return int(stop.code or 0)
    except TdxStackError as error:
        output.failure(error, as_json=False)
        return int(error.exit_code)
    return int(ExitCode.DONE)


def _target(args: argparse.Namespace) -> Path:
    name = f"{args.fd.stem}.sb.fd"
    if args.output is None:
        return Path(name)
    return Path(args.output) if args.output.suffix and not args.output.is_dir() else args.output / name


def _enroll(args: argparse.Namespace, target: Path) -> list[str]:
    from tdxstack.firmware.effect import effect
    from tdxstack.firmware.enroll import with_variables
    from tdxstack.system.files import write_atomic

    firmware = _read(args.fd)
    variables = _variables(args)
    if not variables:
        raise UsageError("nothing to enrol", hint="give -pk GUID CER -kek GUID CER -db GUID CER")
    after = with_variables(firmware, variables)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, after)
    return [f"wrote {target}", *effect(firmware, after).lines]


def _variables(args: argparse.Namespace) -> list[Variable]:
    """In the original's order: PK, KEK, db, dbx, SecureBootEnable."""
    from tdxstack.firmware.enroll import certificate_lists, content_of_update, key_variable, secure_boot_switch
    from tdxstack.firmware.keys import read_certificate

    found: list[Variable] = []
    for name, given in (("PK", args.pk), ("KEK", args.kek), ("db", args.db)):
        if given is not None:
            owner = _guid(given[0])
            found.append(key_variable(name, certificate_lists([read_certificate(Path(given[1]))], owner)))
    if args.dbx is not None:
        if len(args.dbx) > 2:
            raise UsageError("-dbx takes a GUID and a file")
        found.append(key_variable("dbx", content_of_update(_read(Path(args.dbx[-1])))))
    on = True
    if args.secure_boot is not None:
        if _guid(args.secure_boot[0]) != SECURE_BOOT_ENABLE:
            raise UsageError(
                f"-secure_boot {args.secure_boot[0]} is not SecureBootEnable", hint=str(SECURE_BOOT_ENABLE)
            )
        on = _read(Path(args.secure_boot[1]))[:1] == b"\1"
    return [*found, secure_boot_switch(on=on)] if found or args.secure_boot else []


def _guid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise UsageError(f"{text!r} is no GUID", hint="make one by uuidgen") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None

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


def tdx_eventlogs() -> NoReturn:
    """``tdx_eventlogs``: the TD's event log."""
    sys.exit(main(["eventlog", "show", *sys.argv[1:]]))


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
        parser.add_argument(
            option, nargs=2, metavar=("GUID", "CER"), required=True, help=f"{text}: owner, certificate"
        )
    parser.add_argument("-dbx", metavar="FILE", type=Path, help="signed update of dbx")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="file to write (default: NAME.sb.fd here)")
    try:
        args = parser.parse_args(list(argv))
        target = args.output or Path(f"{args.fd.stem}.sb.fd")
        for line in _enroll(args, target):
            output.raw(line.encode() + b"\n")
    except SystemExit as stop:
        return int(stop.code or 0)
    except TdxStackError as error:
        output.failure(error, as_json=False)
        return int(error.exit_code)
    return int(ExitCode.DONE)


def _enroll(args: argparse.Namespace, target: Path) -> list[str]:
    from tdxstack.firmware.effect import effect
    from tdxstack.firmware.enroll import SecureBootKeys, content_of_update, enroll
    from tdxstack.firmware.keys import read_certificate
    from tdxstack.system.files import write_atomic

    try:
        owners = (UUID(args.pk[0]), UUID(args.kek[0]), UUID(args.db[0]))
    except ValueError:
        raise UsageError("an owner is no GUID", hint="make one by uuidgen") from None
    pk, kek, db = (read_certificate(Path(path)) for _, path in (args.pk, args.kek, args.db))
    try:
        firmware = args.fd.read_bytes()
        forbidden = content_of_update(args.dbx.read_bytes()) if args.dbx else b""
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}") from None
    after = enroll(firmware, SecureBootKeys(pk, (kek,), (db,), dbx_content=forbidden, owners=owners))
    write_atomic(target, after)
    return [f"wrote {target}", *effect(firmware, after).lines]

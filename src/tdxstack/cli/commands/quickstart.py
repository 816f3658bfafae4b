"""``tdxctl quickstart``: from this machine to an attested TD."""

from __future__ import annotations

import argparse
from pathlib import Path

from tdxstack.cli import output
from tdxstack.cli.firmware_names import firmware_path
from tdxstack.cli.sizes import memory_size
from tdxstack.errors import ExitCode

#: Virtual CPUs of the TD, if nothing else is asked for.
VCPUS = 2


def add_parser(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "The exit status is 0 only if everything held, 3 if the evidence was rejected."
    parser.add_argument("--platform", metavar="NAME", help="platform (default: TDX hardware, else software)")
    parser.add_argument("--image", default="debian-13", metavar="RECIPE", help="guest image (default: %(default)s)")
    parser.add_argument(
        "--firmware", type=Path, metavar="FILE", help="TDVF to boot: a file, or a name (default: generic)"
    )
    parser.add_argument("--kernel", type=Path, metavar="FILE", help="kernel to boot (default: the image's)")
    parser.add_argument("--initrd", type=Path, metavar="FILE", help="initrd to boot (default: the image's)")
    parser.add_argument("--cmdline", metavar="TEXT", help="kernel command line (default: the image's)")
    parser.add_argument("--append", default="", metavar="TEXT", help="add to the kernel command line")
    parser.add_argument("--memory", default="2G", metavar="SIZE", help="memory (default: %(default)s)")
    parser.add_argument("--vcpus", type=int, default=VCPUS, metavar="N", help="virtual CPUs (default: %(default)s)")
    parser.add_argument(
        "--expect",
        type=Path,
        metavar="FILE",
        help="compare with this prediction (tdxctl measure predict --json) instead of one from the files that boot",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="where the evidence is kept")
    parser.add_argument("--keep", action="store_true", help="leave the TD running")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done and do nothing")
    output.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitCode:
    from tdxstack.attest import quickstart
    from tdxstack.attest.expectation import read_expectation
    from tdxstack.attest.judge import Verdict
    from tdxstack.cli.attestation_text import attestation

    request = quickstart.Request(
        platform=args.platform,
        recipe=args.image,
        firmware=_absolute(args.firmware and firmware_path(args.firmware)),
        kernel=_absolute(args.kernel),
        initrd=_absolute(args.initrd),
        cmdline=args.cmdline,
        append=args.append,
        memory=memory_size(args.memory),
        vcpus=args.vcpus,
        keep=args.keep,
        expected=read_expectation(args.expect) if args.expect else None,
        output=_absolute(args.output),
    )
    if args.dry_run:
        members = quickstart.plan(request)
        output.emit(args, output.document("quickstart-plan", members), lambda: "\n".join(members["steps"]))
        return ExitCode.DONE
    result, members = quickstart.run(request, output.step)
    report = output.document("quickstart", members)
    output.emit(args, report, lambda: attestation(report))
    return ExitCode.DONE if result.verdict is Verdict.ACCEPTED else ExitCode.REJECTED


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()

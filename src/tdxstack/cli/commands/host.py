"""``tdxctl host``: is this machine fit to run TDs, what is installed, and what is wrong."""

from __future__ import annotations

import argparse
from pathlib import Path

from tdxstack.cli import output
from tdxstack.cli.commands import host_install
from tdxstack.errors import ExitCode, UsageError


def add_parser(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    _add_check(verbs.add_parser("check", help="check everything that a TDX host needs"))
    components = verbs.add_parser("components", help="list the stack's components and what is installed")
    _add_root(components)
    output.add_json(components)
    components.set_defaults(run=components_command)
    _add_diagnose(verbs.add_parser("diagnose", help="read logs and say what is wrong, why, and what to do"))
    host_install.add_install(verbs.add_parser("install", help="install the stack on this host (plan first)"))
    host_install.add_uninstall(verbs.add_parser("uninstall", help="put back what install changed"))
    host_install.add_qcnl(verbs.add_parser("qcnl", help="the quote provider's configuration"))
    _add_capture(verbs.add_parser("capture", help="copy what checks read into a directory, for a bug report"))


def _add_root(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, metavar="DIR", help="read a captured tree instead of this machine")


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "exit status: 0 all required checks pass, 4 not a TDX host, 1 otherwise"
    _add_root(parser)
    parser.add_argument(
        "--guest", action="store_true", help="look at a TD from inside instead (or a captured tree of one)"
    )
    parser.add_argument("--verbose", action="store_true", help="tell the evidence of checks that pass, too")
    output.add_json(parser)
    parser.set_defaults(run=check)


def _add_diagnose(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "exit status: 0 no known sign of trouble, 1 trouble was found"
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="logs of kernel, journal, QEMU, QGS, PCCS, MPA, libvirt (also .gz), or - for standard input; "
        "without any, the logs and configuration of this machine",
    )
    _add_root(parser)
    output.add_json(parser)
    parser.set_defaults(run=diagnose)


def _add_capture(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help="directory to make; it must not exist")
    parser.add_argument("--dry-run", action="store_true", help="list what would be copied")
    _add_root(parser)
    parser.set_defaults(run=capture)


def check(args: argparse.Namespace) -> ExitCode:
    """Look at the host, or at a captured tree of one."""
    import sys

    from tdxstack.platform.linux_open_host import open_host
    from tdxstack.preflight import report, tree
    from tdxstack.preflight.host import Host

    look, roots = (tree.check_guest, tree.GUEST_ROOTS) if args.guest else (tree.check_host, tree.HOST_ROOTS)
    results = look(Host(open_host(args.root)))
    code = report.exit_code(results, roots)
    document = output.document("guest-preflight" if args.guest else "host-check", report.body(results))
    output.emit(args, document, lambda: report.text(results, colour=output.colour(sys.stdout), verbose=args.verbose))
    if code is ExitCode.UNSUPPORTED:
        output.say("not a TD:" if args.guest else "not a TDX host:")
        for reason in report.reasons(results, roots):
            output.say(f"  {reason}")
    return code


def diagnose(args: argparse.Namespace) -> ExitCode:
    """Read logs and tell what is wrong."""
    import sys

    from tdxstack.platform.linux_open_host import open_host
    from tdxstack.preflight import configuration, diagnosis, log_sources

    if args.files and args.root:
        raise UsageError("--root reads a captured tree: name no files beside it")
    configured: list[diagnosis.Problem] = []
    if args.files:
        scans = [
            log_sources.scan_stream("standard input", sys.stdin.buffer)
            if name == "-"
            else log_sources.scan_file(Path(name))
            for name in args.files
        ]
    else:
        source = open_host(args.root)
        scans = list(log_sources.scan_host(source))
        configured = configuration.problems(source)
    found = [*diagnosis.problems(scans), *configured]
    logs = [{"source": scan.source, "bytes": scan.size, "lines": scan.lines} for scan in scans]
    document = output.document(
        "host-diagnosis", {"ok": not found, "problems": [one.body() for one in found], "logs": logs}
    )
    output.emit(args, document, lambda: diagnosis.text(found, scans))
    return ExitCode.FAILED if found else ExitCode.DONE


def components_command(args: argparse.Namespace) -> ExitCode:
    """List the components of the white paper's Table 2."""
    from tdxstack.platform.linux_open_host import open_host
    from tdxstack.preflight import components
    from tdxstack.preflight.host import Host

    found = components.listed(Host(open_host(args.root)))
    document = output.document("host-components", {"components": [one.body() for one in found]})
    output.emit(args, document, lambda: components.text(found))
    return ExitCode.DONE


def capture(args: argparse.Namespace) -> ExitCode:
    """Copy what checks read, without secrets."""
    from tdxstack.platform.linux_open_host import open_host
    from tdxstack.preflight import capture as room

    plan = room.collect(open_host(args.root))
    if args.dry_run:
        for path, content in sorted(plan.items()):
            output.say(f"{len(content):>9}  {path}")
        return ExitCode.DONE
    room.write(plan, args.directory)
    output.say(f"captured {len(plan)} files in {args.directory}; read them before you send them")
    output.say(f"  next: tdxctl host check --root {args.directory}")
    return ExitCode.DONE

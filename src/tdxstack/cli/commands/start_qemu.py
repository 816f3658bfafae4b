"""``tdxctl start-qemu``: the launcher of the white paper, with its options, on every dialect of the stack."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tdxstack.cli import output
from tdxstack.errors import ExitCode, TdxStackError, UsageError

if TYPE_CHECKING:
    from tdxstack.vm.qemu.start_qemu import Machine, Options

EPILOG = """The options are those of table 4 of the white paper "Linux Stacks for Intel TDX 1.5". With the dialect
tdx15 the result is that launcher's argument list; the other dialects run the same machine as `tdxctl td` does."""


def add_parser(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.set_defaults(run=run)
    option = parser.add_argument
    option(
        "-i", dest="image", metavar="FILE", default="td-guest.qcow2", help="guest image (default: ./td-guest.qcow2)"
    )
    option("-k", dest="kernel", metavar="FILE", default="vmlinuz", help="kernel (default: ./vmlinuz)")
    option("-t", dest="type", choices=("legacy", "efi", "td"), default="td", help="kind of machine (default: td)")
    option("-b", dest="boot", choices=("direct", "grub"), default="direct", help="what boots (default: direct)")
    option("-p", dest="monitor_port", metavar="PORT", type=int, default=9001, help="telnet monitor (default: 9001)")
    option("-f", dest="ssh_port", metavar="PORT", type=int, default=10026, help="host port to ssh (default: 10026)")
    option("-o", dest="firmware", metavar="FILE", help="OVMF file (default: /usr/share/qemu/OVMF.fd)")
    option("-m", dest="mac", metavar="MAC", help="MAC address; it is measured")
    option("-q", dest="quote", choices=("tdvmcall", "vsock"), help="how the TD asks for quotes")
    option("-c", dest="vcpus", metavar="N", type=int, default=1, help="number of vCPUs (default: 1)")
    option("-r", dest="root", metavar="DEVICE", default="/dev/vda1", help="root partition (default: /dev/vda1)")
    option("-n", dest="network", metavar="CIDR", default="10.0.2.0/24", help="the guest's network")
    option("-a", dest="dhcp_start", metavar="IP", default="10.0.2.15", help="its first DHCP address")
    option("-e", dest="extra", metavar="WORDS", help="further kernel command line")
    option("-w", dest="mrownerconfig", metavar="HEX96", help="MROWNERCONFIG, 96 hex digits")
    option("-u", dest="hugepages", metavar="DIR", help="hugetlbfs mount to back the memory from")
    option("-v", dest="vsock", action="store_true", help="give the guest a vsock device")
    option("-d", dest="debug", action="store_true", help="debug=on, gdb stub, stop at start; uses OVMF.debug.fd")
    option("-s", dest="serial", action="store_true", help="serial console instead of the virtual one")
    option("--dialect", default="auto", help="auto, software, tdx15, canonical or upstream (default: auto)")
    option("--dry-run", action="store_true", help="print the argument list and start nothing")
    output.add_json(parser)


def run(args: argparse.Namespace) -> ExitCode:
    from tdxstack.vm.qemu.start_qemu import tdx15_argv

    options = _options(args)
    for note in _notes(options, args):
        output.say(f"note: {note}")
    if args.dialect == "tdx15":
        argv = tdx15_argv(options, _machine(options))
        return _show(args, argv, "tdx15") if args.dry_run else _become(options, args, argv)
    return _run_spec(args, options)


def _options(args: argparse.Namespace) -> Options:
    from dataclasses import fields

    from tdxstack.vm.qemu.start_qemu import FIRMWARE, Options

    given: dict[str, Any] = {item.name: getattr(args, item.name) for item in fields(Options)}
    paths = {name: Path(given[name] or FIRMWARE) for name in ("image", "kernel", "firmware")}
    values: dict[str, Any] = {**given, **paths}
    return Options(**values).check()


def _notes(options: Options, args: argparse.Namespace) -> list[str]:
    from tdxstack.vm.qemu.start_qemu import DEFAULTS, network_fault

    script = args.dialect == "tdx15"
    notes = []
    if options.boot == "grub" and not options.serial:
        notes.append("with the virtual console, GRUB's menu takes no keys (use -s)")
    if options.quote == "tdvmcall" and options.type != "td":
        notes.append(f"-q tdvmcall means nothing to -t {options.type}: only TDs have quotes")
    if script and options.debug and args.firmware is not None:
        notes.append("-d takes OVMF.debug.fd instead of the file given by -o")
    if script and (fault := network_fault(options)):
        notes.append(f"QEMU will refuse {fault} (give -a an address of -n)")
    if not script and options.monitor_port != DEFAULTS.monitor_port:
        notes.append("-p is for the dialect tdx15; `tdxctl td` talks to the monitor over a socket")
    return notes


def _machine(options: Options) -> Machine:
    import time

    from tdxstack.platform.linux_processor import megahertz
    from tdxstack.vm.allocation import free_cid
    from tdxstack.vm.qemu.start_qemu import LEGACY_PLACES, QEMU_PLACES, Machine

    log = Path.cwd() / f"vm_log_{time.strftime('%Y-%m-%dT%H%M')}.log"
    return Machine(
        qemu=next((path for path in QEMU_PLACES if path.exists()), QEMU_PLACES[-1]),
        legacy_firmware=next((path for path in LEGACY_PLACES if path.exists()), LEGACY_PLACES[-1]),
        image_format=_image_format(options.image),
        log=log,
        vsock_cid=free_cid(),
        megahertz=megahertz(),
    )


def _image_format(image: Path) -> str:
    from tdxstack.vm.disk import image_format

    if image.exists():
        return image_format(image)
    return "raw" if image.suffix in (".raw", ".img") else "qcow2"


def _missing(options: Options, args: argparse.Namespace) -> None:
    wanted = [("-i", options.image)] + ([("-k", options.kernel)] if options.boots_kernel else [])
    if args.firmware is not None and options.type != "legacy":
        wanted.append(("-o", options.firmware))
    for letter, path in wanted:
        if not path.exists():
            raise UsageError(f"{letter} {path}: no such file", hint=f"give {letter} an existing file")


def _show(args: argparse.Namespace, argv: list[str], dialect: str) -> ExitCode:
    import shlex

    output.emit(args, output.document("td-argv", {"argv": argv, "dialect": dialect}), lambda: shlex.join(argv))
    return ExitCode.DONE


def _become(options: Options, args: argparse.Namespace, argv: list[str]) -> ExitCode:
    from tdxstack.system.process import become
    from tdxstack.vm.ports import can_bind

    _missing(options, args)
    for letter, port in (("-p", options.monitor_port), ("-f", options.ssh_port)):
        if not can_bind(port):
            raise UsageError(f"{letter} {port}: the port is in use", hint=f"give {letter} another port")
    become(argv)


def _run_spec(args: argparse.Namespace, options: Options) -> ExitCode:
    from dataclasses import replace

    from tdxstack.cli.console import relay
    from tdxstack.vm import lifecycle, plan
    from tdxstack.vm.qemu.start_qemu import to_spec
    from tdxstack.vm.record import TdRecord

    firmware = Path(args.firmware).absolute() if args.firmware else None
    spec = replace(to_spec(options, f"tdxvm-{options.ssh_port}", firmware=firmware), dialect=args.dialect)
    if args.dry_run:
        argv, facts = plan.preview(TdRecord(spec=spec))
        return _show(args, argv, facts.dialect)
    _missing(options, args)
    lifecycle.create(spec)
    try:
        record = lifecycle.start(spec.name, progress=output.step)
    except BaseException as error:
        lifecycle.delete(spec.name)
        if isinstance(error, TdxStackError) and error.hint and spec.name in error.hint:
            error.hint = "it is forgotten, its logs too; the same with --dry-run shows what QEMU is given"
        raise
    relay(record.place.run_dir / "console.sock")
    return ExitCode.DONE

"""``tdxctl qgs``: a Quote Generation Service for a software platform, and a client of any QGS."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tdxstack.cli import output
from tdxstack.errors import ExitCode, PlatformMissing, SystemFault, UsageError

if TYPE_CHECKING:
    from tdxstack.platform.qgs_client import Address
    from tdxstack.platform.software.platform import SoftwarePlatform
    from tdxstack.platform.software.qgs_server import QgsServer

DEFAULT_SOCKET = "/var/run/tdx-qgs/qgs.socket"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
#: This machine's own vsock address, by which it reaches its QGS (VMADDR_CID_LOCAL).
LOCAL_CID = 1


def add_parser(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    serve = verbs.add_parser("serve", help="serve quotes of a software platform until interrupted")
    serve.description = (
        "Serve Intel's QGS protocol. Each TD on a software platform has a QGS of its own already. Quotes of TDX "
        "hardware are made by Intel's enclaves in qgsd, which this command does not stand in for."
    )
    serve.add_argument("--platform", default="software", metavar="NAME", help="default: software")
    _add_address(serve, "listen on").add_argument(
        "--vsock", type=int, metavar="PORT", help="listen for guests on vsock; Intel's port is 4050"
    )
    serve.set_defaults(run=serve_command)
    status = _add_client(verbs, "status", "ask a QGS for its platform's SVNs", status_command)
    output.add_json(status)
    quote = _add_client(verbs, "quote", "have a QGS make a quote of a TDREPORT", quote_command)
    quote.add_argument("report", metavar="TDREPORT", type=Path, help="file of 1024 bytes (tdxctl guest report --out)")
    quote.add_argument("--raw", action="store_true", help="in raw mode: the bare report, a bare quote")
    quote.add_argument("-o", "--output", metavar="FILE", type=Path, help="where to put it (default: stdout)")
    collateral = _add_client(verbs, "collateral", "have a QGS get collateral from its PCCS", collateral_command)
    collateral.add_argument("--fmspc", required=True, metavar="FMSPC", help="the platform's, 12 hexadecimal digits")
    collateral.add_argument("--ca", choices=("platform", "processor"), default="platform", help="issuer of the PCK")
    collateral.add_argument("-o", "--output", metavar="FILE", type=Path, help="where to put it (default: stdout)")


def _add_client(verbs: Any, name: str, text: str, run: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text)
    place = _add_address(parser, "ask")
    place.add_argument("--td", metavar="NAME", help="ask the QGS of a running TD")
    place.add_argument("--vsock", metavar="[CID:]PORT", help="ask at a vsock port; without CID: this machine's")
    parser.set_defaults(run=run)
    return parser


def _add_address(parser: argparse.ArgumentParser, what: str) -> argparse._MutuallyExclusiveGroup:
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--socket", type=Path, metavar="PATH", help=f"{what} a unix socket ({DEFAULT_SOCKET})")
    place.add_argument("--tcp", metavar="HOST:PORT", help=f"{what} TCP, loopback only; port 0: any free one")
    return place


def serve_command(args: argparse.Namespace) -> ExitCode:
    """Serve until SIGINT or SIGTERM."""
    import asyncio

    from tdxstack.platform.software.qgs_server import QgsServer, QgsService

    platform = _open_platform(args.platform)
    address = args.vsock if args.vsock is not None else _address(args)
    asyncio.run(_serve(QgsServer(QgsService(platform)), address, args.platform))
    output.say("stopped")
    return ExitCode.DONE


def _open_platform(name: str) -> SoftwarePlatform:
    """The platform; where there is none, say what a QGS of this command is for."""
    from tdxstack.platform.software.platform import SoftwarePlatform

    try:
        return SoftwarePlatform.open(name)
    except PlatformMissing as error:
        raise PlatformMissing(
            f"{error.message}; this QGS makes quotes of software platforms alone, those of TDX hardware need Intel's "
            "quoting enclaves",
            hint=f"tdxctl platform create {name}    (on TDX hardware: systemctl start qgsd; tdxctl qgs status)",
        ) from None


async def _serve(server: QgsServer, address: Address | int, platform: str) -> None:
    import asyncio
    import signal

    from tdxstack.platform.qgs_client import Vsock, spoken

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if isinstance(address, int):
        where = f"vsock port {await server.listen_vsock(address)}"
    elif isinstance(address, Path):
        await server.listen_unix(address)
        where = str(address)
    else:
        assert not isinstance(address, Vsock)  # noqa: S101  # the parser makes none for this verb
        where = spoken((address[0], await server.listen_tcp(*address)))
    output.say(f"software platform {platform}: quotes at {where}; Ctrl-C ends it")
    try:
        await stop.wait()
    finally:
        await server.close()


def status_command(args: argparse.Namespace) -> ExitCode:
    """Ask for platform information."""
    import asyncio

    from tdxstack.platform import qgs_client

    address = _address(args)
    info = asyncio.run(qgs_client.platform_info(address))
    software = b"software" in info.platform_id
    body = {
        "address": qgs_client.spoken(address),
        "platform": "software" if software else "tdx",
        "tdqe_isvsvn": info.tdqe_isvsvn,
        "pce_isvsvn": info.pce_isvsvn,
        "platform_id": info.platform_id.hex(),
        "cpusvn": info.cpusvn.hex(),
    }
    output.emit(args, output.document("qgs-status", body), lambda: "\n".join(f"{k:<12} {v}" for k, v in body.items()))
    return ExitCode.DONE


def quote_command(args: argparse.Namespace) -> ExitCode:
    """Have a quote made."""
    import asyncio

    from tdxstack.platform import qgs_client
    from tdxstack.wire.qgs import TDREPORT_SIZE

    try:
        report = args.report.read_bytes()
    except OSError as error:
        raise UsageError(f"{args.report}: {error.strerror}") from None
    if len(report) != TDREPORT_SIZE:
        raise UsageError(f"{args.report}: {len(report)} bytes are no TDREPORT, which has {TDREPORT_SIZE}")
    ask = qgs_client.get_raw_quote if args.raw else qgs_client.get_quote
    _put(asyncio.run(ask(_address(args), report)), args.output)
    return ExitCode.DONE


def collateral_command(args: argparse.Namespace) -> ExitCode:
    """Have collateral fetched; prints one document, as ``quote verify --collateral`` takes it."""
    import asyncio
    import json

    from tdxstack.pcs.client import check_fmspc
    from tdxstack.platform import qgs_client

    fmspc = bytes.fromhex(check_fmspc(args.fmspc))
    found = asyncio.run(qgs_client.get_collateral(_address(args), fmspc, args.ca))
    _put(json.dumps(found, indent=1, ensure_ascii=False).encode() + b"\n", args.output)
    return ExitCode.DONE


def _put(data: bytes, path: Path | None) -> None:
    if path is None:
        output.raw(data)
        return
    try:
        path.write_bytes(data)
    except OSError as error:
        raise SystemFault(f"cannot write {path}: {error.strerror}") from error
    output.say(f"{path}: {len(data)} bytes")


def _address(args: argparse.Namespace) -> Address:
    if getattr(args, "td", None):
        from tdxstack.platform.base import check_name
        from tdxstack.system import paths

        return paths.runtime() / check_name(args.td) / "qgs.sock"
    if isinstance(args.vsock, str):
        return _vsock(args.vsock)
    if args.tcp is None:
        return args.socket or Path(DEFAULT_SOCKET)
    host, colon, port = args.tcp.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 0xFFFF:
        raise UsageError(f"--tcp {args.tcp!r} is not HOST:PORT", hint="for example --tcp 127.0.0.1:4050")
    if host.strip("[]") not in LOOPBACK:
        raise UsageError(
            f"{host} is not this machine's loopback; a QGS answers whoever reaches it", hint="--tcp 127.0.0.1:PORT"
        )
    return host.strip("[]"), int(port)


def _vsock(text: str) -> Address:
    from tdxstack.platform.qgs_client import Vsock

    cid, _, port = text.rpartition(":")
    numbers = (cid or str(LOCAL_CID), port)
    if not all(number.isdecimal() and int(number) < 1 << 32 for number in numbers):
        raise UsageError(f"--vsock {text!r} is not [CID:]PORT", hint="Intel's QGS listens on port 4050")
    return Vsock(int(numbers[0]), int(numbers[1]))

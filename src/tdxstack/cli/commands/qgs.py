"""``tdxctl qgs``: a Quote Generation Service for a software platform, and what a QGS says of itself."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tdxstack.cli import output
from tdxstack.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from tdxstack.platform.qgs_client import Address
    from tdxstack.platform.software.qgs_server import QgsServer

DEFAULT_SOCKET = "/var/run/tdx-qgs/qgs.socket"
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def add_parser(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    serve = verbs.add_parser("serve", help="serve quotes of a software platform until interrupted")
    serve.description = "Serve Intel's QGS protocol. Each TD on a software platform has a QGS of its own already."
    serve.add_argument("--platform", default="software", metavar="NAME", help="default: software")
    _add_address(serve, "listen on").add_argument(
        "--vsock", type=int, metavar="PORT", help="listen for guests on vsock; Intel's port is 4050"
    )
    serve.set_defaults(run=serve_command)
    status = verbs.add_parser("status", help="ask a QGS for its platform's SVNs")
    _add_address(status, "ask")
    status.add_argument("--td", metavar="NAME", help="ask the QGS of a running TD")
    output.add_json(status)
    status.set_defaults(run=status_command)


def _add_address(parser: argparse.ArgumentParser, what: str) -> argparse._MutuallyExclusiveGroup:
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--socket", type=Path, metavar="PATH", help=f"{what} a unix socket ({DEFAULT_SOCKET})")
    place.add_argument("--tcp", metavar="HOST:PORT", help=f"{what} TCP, loopback only; port 0: any free one")
    return place


def serve_command(args: argparse.Namespace) -> ExitCode:
    """Serve until SIGINT or SIGTERM."""
    import asyncio

    from tdxstack.platform.software.platform import SoftwarePlatform
    from tdxstack.platform.software.qgs_server import QgsServer, QgsService

    platform = SoftwarePlatform.open(args.platform)
    address = args.vsock if args.vsock is not None else _address(args)
    asyncio.run(_serve(QgsServer(QgsService(platform)), address, args.platform))
    output.say("stopped")
    return ExitCode.DONE


async def _serve(server: QgsServer, address: Address | int, platform: str) -> None:
    import asyncio
    import signal

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if isinstance(address, int):
        spoken = f"vsock port {await server.listen_vsock(address)}"
    elif isinstance(address, Path):
        await server.listen_unix(address)
        spoken = str(address)
    else:
        spoken = _spoken((address[0], await server.listen_tcp(*address)))
    output.say(f"software platform {platform}: quotes at {spoken}; Ctrl-C ends it")
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
        "address": _spoken(address),
        "platform": "software" if software else "tdx",
        "tdqe_isvsvn": info.tdqe_isvsvn,
        "pce_isvsvn": info.pce_isvsvn,
        "platform_id": info.platform_id.hex(),
        "cpusvn": info.cpusvn.hex(),
    }
    output.emit(args, output.document("qgs-status", body), lambda: "\n".join(f"{k:<12} {v}" for k, v in body.items()))
    return ExitCode.DONE


def _address(args: argparse.Namespace) -> Address:
    if getattr(args, "td", None):
        from tdxstack.platform.base import check_name
        from tdxstack.system import paths

        return paths.runtime() / check_name(args.td) / "qgs.sock"
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


def _spoken(address: Address) -> str:
    return str(address) if isinstance(address, Path) else f"{address[0]}:{address[1]}"

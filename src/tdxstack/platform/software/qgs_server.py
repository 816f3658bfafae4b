"""A Quote Generation Service for a software platform, on a stream socket, in Intel's protocol.

A connection carries any number of requests, each with a 4-byte big-endian length in front, or bare TDREPORTs (raw
mode). A request may arrive in pieces. What is not a request gets the protocol's error code; a length that no request
has, a client that reads no answer, or silence for 30 seconds, ends the connection. Quotes are made by a few threads,
so that no client waits for another one's; a client has a limited number of connections, others are closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from tdxstack.errors import PlatformMissing, SystemFault, WireError
from tdxstack.platform.software.collateral import Collateral
from tdxstack.platform.software.quoting import QE_ID, QuotingEnclave, ReportRefused
from tdxstack.platform.software.tcb import FMSPC, PlatformTcb
from tdxstack.wire import qgs
from tdxstack.wire.qgs import QgsError

log = logging.getLogger(__name__)

IDLE_SECONDS = 30.0
MAX_CONNECTIONS = 64
#: Of one client: a user at a unix socket, a guest's CID at a vsock, an address at TCP.
MAX_PER_CLIENT = 16
#: Quotes that are made at once; as many as Intel's QGS has by default (``number_threads``).
THREADS = 4
#: Version of the collateral structure: 3.1 has the CRLs as DER.
COLLATERAL_VERSION = (3, 1)
PCK_CA = "platform"


class QuoteSource(Protocol):
    """What a QGS needs of its platform."""

    def quoting_enclave(self) -> QuotingEnclave: ...

    def tcb(self) -> PlatformTcb: ...

    def quote_version(self) -> int: ...

    def collateral(self) -> dict[str, str]: ...


class QgsService:
    """Answers requests; knows nothing of sockets."""

    def __init__(self, platform: QuoteSource) -> None:
        self._platform = platform

    def answer(self, message: bytes) -> bytes:
        """The response to one request (both without stream length); never raises for what a client sent."""
        kind = qgs.MessageType.GET_QUOTE_REQ
        try:
            kind = qgs.MessageType(qgs.Header.from_bytes(message).type)
            return self._dispatch(qgs.parse(message))
        except WireError as error:
            log.warning("software QGS refused a request: %s", error)
            return qgs.error_response(kind, qgs.error_code_of(error))
        except ValueError:
            return qgs.error_response(kind, QgsError.INVALID_TYPE)
        except ReportRefused as error:
            log.warning("software QGS: %s", error)
            return qgs.error_response(kind, QgsError.UNEXPECTED)
        except (PlatformMissing, SystemFault) as error:
            log.error("software QGS: %s", error)
            return qgs.error_response(kind, QgsError.UNEXPECTED)

    def quote(self, report: bytes) -> bytes:
        """A quote of a TDREPORT, of the platform's version.

        Raises:
            ReportRefused: the report is not this platform's.
        """
        return self._platform.quoting_enclave().quote(report, self._platform.quote_version())

    def _dispatch(self, request: qgs.Message) -> bytes:
        if isinstance(request, qgs.GetQuoteRequest):
            return self._get_quote(request)
        if isinstance(request, qgs.GetCollateralRequest):
            return self._get_collateral(request)
        if isinstance(request, qgs.GetPlatformInfoRequest):
            tcb = self._platform.tcb()
            return qgs.GetPlatformInfoResponse(tcb.qe_svn, tcb.pcesvn, QE_ID, tcb.cpusvn).to_bytes()
        raise WireError("qgs_msg_header_t", "type", 4, f"{request.TYPE} is a response")

    def _get_quote(self, request: qgs.GetQuoteRequest) -> bytes:
        if len(request.report) != qgs.TDREPORT_SIZE:
            return qgs.error_response(request.TYPE, QgsError.INVALID_PARAMETER)
        if request.id_list and qgs.TDX_QE_ID not in request.id_list:
            return qgs.error_response(request.TYPE, QgsError.INVALID_PARAMETER)
        return qgs.GetQuoteResponse(self.quote(request.report), qgs.TDX_QE_ID).to_bytes()

    def _get_collateral(self, request: qgs.GetCollateralRequest) -> bytes:
        if request.fmspc != FMSPC or request.pck_ca != PCK_CA:
            return qgs.error_response(request.TYPE, QgsError.INVALID_PARAMETER)
        parts = Collateral.from_json(self._platform.collateral())
        major, minor = COLLATERAL_VERSION
        return qgs.GetCollateralResponse(
            major_version=major,
            minor_version=minor,
            pck_crl_issuer_chain=_text(parts.pck_crl_issuer_chain),
            root_ca_crl=parts.root_ca_crl,
            pck_crl=parts.pck_crl,
            tcb_info_issuer_chain=_text(parts.tcb_info_issuer_chain),
            tcb_info=_text(parts.tcb_info_document),
            qe_identity_issuer_chain=_text(parts.qe_identity_issuer_chain),
            qe_identity=_text(parts.qe_identity_document),
            for_minor=request.minor_version,
        ).to_bytes()


def _text(value: str) -> bytes:
    """Strings of the collateral structure end with NUL, which their size counts."""
    return value.encode() + b"\0"


def _bind_private(path: Path) -> socket.socket:
    """A unix socket that only its owner can connect to, from its first moment on."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(old)
    return listener


class QgsServer:
    """Serves a QgsService on one socket."""

    def __init__(self, service: QgsService, *, idle_seconds: float = IDLE_SECONDS) -> None:
        self._service = service
        self._idle = idle_seconds
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], str] = {}
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="qgs")
        self._unlink: Callable[[], None] = lambda: None

    async def listen_unix(self, path: Path) -> None:
        """Listen on a unix socket that only its owner can use; an old socket of this name is replaced."""
        try:
            self._server = await asyncio.start_unix_server(self._accept, sock=_bind_private(path))
        except OSError as error:
            raise SystemFault(f"cannot listen on {path}: {error.strerror or error}") from error
        self._unlink = lambda: path.unlink(missing_ok=True)

    async def listen_tcp(self, host: str, port: int) -> int:
        """Listen on TCP; return the port, which the system chose if 0 was asked for."""
        try:
            self._server = await asyncio.start_server(self._accept, host, port)
        except OSError as error:
            hint = f"ss -ltnp 'sport = :{port}'"
            raise SystemFault(f"cannot listen on {host}:{port}: {error.strerror or error}", hint=hint) from error
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def listen_vsock(self, port: int) -> int:
        """Listen for guests on AF_VSOCK, as Intel's QGS does on port 4050; return the port (-1: any free one)."""
        listener: socket.socket | None = None
        try:
            listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
            listener.bind((socket.VMADDR_CID_ANY, port if port >= 0 else socket.VMADDR_PORT_ANY))
            self._server = await asyncio.start_server(self._accept, sock=listener)
        except OSError as error:
            if listener is not None:
                listener.close()
            hint = "modprobe vhost_vsock; ss -l --vsock"
            raise SystemFault(f"cannot listen on vsock port {port}: {error.strerror or error}", hint=hint) from error
        bound: int = listener.getsockname()[1]
        return bound

    async def close(self) -> None:
        """Stop listening, end all connections, remove the socket."""
        if self._server is not None:
            self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._unlink()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        client = client_of(writer.get_extra_info("socket"))
        if task is None or not self._admits(client):
            writer.close()
            return
        self._connections[task] = client
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._exchange(reader, writer):
                    pass
            writer.close()
        except TimeoutError:
            # A client that does not read would hold an orderly end, and what it was to be sent, for ever.
            writer.transport.abort()
        except BaseException:
            writer.transport.abort()
            raise
        finally:
            del self._connections[task]

    def _admits(self, client: str) -> bool:
        mine = sum(other == client for other in self._connections.values())
        if len(self._connections) < MAX_CONNECTIONS and mine < MAX_PER_CLIENT:
            return True
        log.warning("software QGS: no connection more for %s, which has %d", client, mine)
        return False

    async def _send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        async with asyncio.timeout(self._idle):
            writer.write(data)
            await writer.drain()

    async def _work(self, work: Callable[[bytes], bytes], data: bytes) -> bytes:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, data)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; False ends the connection."""
        async with asyncio.timeout(self._idle):
            start = await reader.readexactly(qgs.FRAME_SIZE)
            if qgs.is_raw_report(start):
                report = start + await reader.readexactly(qgs.TDREPORT_SIZE - len(start))
                return await self._raw(report, writer)
            try:
                length = qgs.frame_length(start, limit=qgs.MAX_REQUEST)
            except WireError as error:
                log.warning("software QGS ends a connection: %s", error)
                await self._send(writer, qgs.frame(qgs.error_response(0, QgsError.INVALID_SIZE)))
                return False
            message = await reader.readexactly(length)
        await self._send(writer, qgs.frame(await self._work(self._service.answer, message)))
        return True

    async def _raw(self, report: bytes, writer: asyncio.StreamWriter) -> bool:
        """Raw mode has no way to say no but to end the connection."""
        try:
            quote = await self._work(self._service.quote, report)
        except (ReportRefused, PlatformMissing, SystemFault) as error:
            log.warning("software QGS: %s", error)
            return False
        await self._send(writer, quote)
        return True


def client_of(stream: socket.socket) -> str:
    """Who is at the other end, as far as limits go."""
    if stream.family == socket.AF_UNIX:
        _, uid, _ = struct.unpack("3i", stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return f"uid {uid}"
    try:
        peer = stream.getpeername()
    except OSError:
        return "gone"
    return f"CID {peer[0]}" if stream.family == socket.AF_VSOCK else str(peer[0])

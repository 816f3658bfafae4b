"""Host side of the software TD channel: serves the guest's TDCALLs from the module model.

The channel is a virtio-serial port whose chardev is a unix socket that QEMU listens on (see
:mod:`tdxstack.wire.channel` for the frames). A guest that stops in the middle of a frame, or sends what is no frame,
gets the connection closed and opened anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
from collections.abc import Callable
from pathlib import Path

from tdxstack.errors import SystemFault, TdxStackError, WireError
from tdxstack.platform import qgs_client
from tdxstack.platform.qgs_client import QgsRefused
from tdxstack.platform.software.status import ModuleError, Operand, Status
from tdxstack.platform.software.td import TrustDomain
from tdxstack.wire import channel, qgs
from tdxstack.wire.channel import Frame, FrameKind, FrameReader, Leaf

log = logging.getLogger(__name__)

CONNECT_SECONDS = 20.0
#: A frame that has begun must be whole within this time.
PARTIAL_SECONDS = 5.0
_RETRY_SECONDS = 0.1
_CHUNK = 64 * 1024

#: TDG.VP.VMCALL<GetQuote> and its shared buffer (Intel GHCI 1.5, section 3.3).
GET_QUOTE = 0x10002
GET_QUOTE_VERSION = 1
GET_QUOTE_SUCCESS = 0
GET_QUOTE_ERROR = 0x8000000000000000
GET_QUOTE_UNAVAILABLE = 0x8000000000000001
_QUOTE_HEADER = struct.Struct("<QQII")
_RTMR_EXTEND = struct.Struct("<Q48s")
_SUBFUNCTION = struct.Struct("<Q")


class Leaves:
    """Carries out requests of one guest.

    Args:
        td: the guest's TD; asked at each request, since a reboot of the guest makes a new one.
        cc_events: the TCG_PCR_EVENT2 records that TDVF logs only inside a TD.
        qgs_socket: where quotes come from.
    """

    def __init__(self, td: Callable[[], TrustDomain], cc_events: bytes, qgs_socket: Path) -> None:
        self._td = td
        self._cc_events = cc_events
        self._qgs_socket = qgs_socket

    async def answer(self, request: Frame) -> Frame:
        """The response to a request; never raises for what a guest sent."""
        if request.kind is not FrameKind.REQUEST:
            return channel.response(Status.OPERAND_INVALID)
        try:
            return channel.response(Status.SUCCESS, await self._call(request.value, request.payload))
        except ModuleError as error:
            return channel.response(error.status)

    async def _call(self, leaf: int, payload: bytes) -> bytes:
        td = self._td()
        if leaf == Leaf.MR_REPORT:
            return td.mr_report(payload).to_bytes()
        if leaf == Leaf.MR_RTMR_EXTEND:
            if len(payload) != _RTMR_EXTEND.size:
                raise ModuleError("TDG.MR.RTMR.EXTEND", Status.OPERAND_INVALID, Operand.RCX, f"{len(payload)} bytes")
            td.mr_rtmr_extend(*_RTMR_EXTEND.unpack(payload))
            return b""
        if leaf == Leaf.VP_VMCALL:
            return await self._vmcall(payload)
        if leaf == Leaf.SOFTWARE_CC_EVENTS:
            return self._cc_events
        if leaf == Leaf.SOFTWARE_MEASUREMENTS:
            return td.mrtd + b"".join(td.rtmrs)
        raise ModuleError(f"leaf 0x{leaf:x}", Status.OPERAND_INVALID, Operand.RAX)

    async def _vmcall(self, payload: bytes) -> bytes:
        function = "TDG.VP.VMCALL"
        if len(payload) < _SUBFUNCTION.size:
            raise ModuleError(function, Status.OPERAND_INVALID, Operand.R11, f"{len(payload)} bytes")
        (subfunction,) = _SUBFUNCTION.unpack_from(payload)
        if subfunction != GET_QUOTE:
            raise ModuleError(function, Status.OPERAND_INVALID, Operand.R11, f"sub-function 0x{subfunction:x}")
        buffer = payload[_SUBFUNCTION.size :]
        if len(buffer) < _QUOTE_HEADER.size:
            raise ModuleError(function, Status.OPERAND_INVALID, Operand.R13, f"buffer of {len(buffer)} bytes")
        return await self._get_quote(buffer)

    async def _get_quote(self, buffer: bytes) -> bytes:
        """The shared buffer after GetQuote; its length does not change."""
        version, _, in_length, _ = _QUOTE_HEADER.unpack_from(buffer)
        room = len(buffer) - _QUOTE_HEADER.size
        if version != GET_QUOTE_VERSION or not 0 < in_length <= room:
            return _quote_buffer(buffer, GET_QUOTE_ERROR)
        message = buffer[_QUOTE_HEADER.size : _QUOTE_HEADER.size + in_length]
        try:
            answer = await self._ask_qgs(message)
        except (QgsRefused, WireError) as error:
            log.warning("GetQuote: %s", error)
            return _quote_buffer(buffer, GET_QUOTE_ERROR)
        except SystemFault as error:
            log.warning("GetQuote: %s", error)
            return _quote_buffer(buffer, GET_QUOTE_UNAVAILABLE)
        if len(answer) > room:
            log.warning("GetQuote: %d bytes of answer for a buffer of %d", len(answer), room)
            return _quote_buffer(buffer, GET_QUOTE_ERROR)
        return _quote_buffer(buffer, GET_QUOTE_SUCCESS, answer)

    async def _ask_qgs(self, message: bytes) -> bytes:
        """Forward a framed QGS message as it is; of a bare TDREPORT (the kernel's form) make a quote."""
        if len(message) == qgs.TDREPORT_SIZE:
            return await qgs_client.get_quote(self._qgs_socket, message)
        return qgs.frame(await qgs_client.exchange(self._qgs_socket, qgs.unframe(message)))


def _quote_buffer(buffer: bytes, status: int, answer: bytes = b"") -> bytes:
    version, _, in_length, _ = _QUOTE_HEADER.unpack_from(buffer)
    data = buffer[_QUOTE_HEADER.size :]
    return _QUOTE_HEADER.pack(version, status, in_length, len(answer)) + answer + data[len(answer) :]


class ChannelServer:
    """Serves one guest's channel over QEMU's socket until closed."""

    def __init__(self, path: Path, leaves: Leaves) -> None:
        self._path = path
        self._leaves = leaves
        self._task: asyncio.Task[None] | None = None
        self._failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def attach(self, *, seconds: float = CONNECT_SECONDS) -> None:
        """Connect to QEMU's socket, waiting for it if need be, and start to serve.

        Raises:
            SystemFault: QEMU does not listen within ``seconds``.
        """
        streams = await self._connect(seconds)
        self._task = asyncio.create_task(self._serve(*streams))

    async def failed(self) -> str:
        """Wait until the channel has ended; say why."""
        return await asyncio.shield(self._failed)

    async def close(self) -> None:
        """End the service."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._fail("closed")

    def _fail(self, reason: str) -> None:
        if not self._failed.done():
            self._failed.set_result(reason)

    async def _connect(self, seconds: float) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            try:
                return await asyncio.open_unix_connection(self._path)
            except OSError as error:
                if asyncio.get_running_loop().time() > deadline:
                    reason = f"no TD channel at {self._path}: {error.strerror or error}"
                    raise SystemFault(reason, hint="see QEMU's output: tdxctl td logs NAME") from error
            await asyncio.sleep(_RETRY_SECONDS)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve connection after connection; QEMU's end means the end."""
        while True:
            try:
                if not await self._converse(reader, writer):
                    self._fail("TD channel: QEMU closed it")
                    return
            except (OSError, TdxStackError) as error:
                log.warning("TD channel reset: %s", error)
            finally:
                writer.close()
            await asyncio.sleep(_RETRY_SECONDS)
            try:
                reader, writer = await self._connect(1.0)
            except SystemFault as error:
                self._fail(f"TD channel: {error}")
                return

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Requests and answers until the peer closes (False). A stream that cannot be read any more raises."""
        frames = FrameReader()
        while True:
            try:
                async with asyncio.timeout(PARTIAL_SECONDS if frames.pending else None):
                    data = await reader.read(_CHUNK)
            except TimeoutError:
                raise WireError(
                    channel.STRUCTURE, "length", 0, f"{frames.pending} bytes of a frame, then silence"
                ) from None
            if not data:
                return False
            for frame in frames.feed(data):
                writer.write((await self._leaves.answer(frame)).to_bytes())
                await writer.drain()

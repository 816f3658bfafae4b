"""The guest's end of the software TD channel: TDCALLs as frames on a virtio-serial port.

The frames carry no number, so an answer that belongs to an earlier request (of a process that died, or of a call
that ran out of time) could be taken for the present one's. Before the first call, and after each that failed, the
stream is therefore brought into step: a TDREPORT over a fresh nonce is asked for, and all up to it thrown away.
"""

from __future__ import annotations

import contextlib
import os
import select
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tdxstack.errors import PlatformMissing, SystemFault, TdxStackError, WireError
from tdxstack.wire import channel
from tdxstack.wire.channel import Frame, FrameKind, FrameReader, Leaf

CALL_SECONDS = 35.0
_SYNC_SECONDS = 30.0
_PAUSE_SECONDS = 0.05
_CHUNK = 64 * 1024
_REPORT_DATA_SIZE = 64
_REPORT_DATA = slice(128, 192)
_TDREPORT_SIZE = 1024

#: TDG.VP.VMCALL<GetQuote> (Intel GHCI 1.5, section 3.3): sub-function and header of the shared buffer.
GET_QUOTE = 0x10002
GET_QUOTE_IN_FLIGHT = 0xFFFFFFFFFFFFFFFF
_QUOTE_HEADER = struct.Struct("<QQII")
#: The shared buffer's size. Linux took 8 KiB until 6.18; quotes with their certificates come near that.
QUOTE_BUFFER_SIZE = 32 * 1024

_HINT = "the host's side of the channel is the TD's supervisor; on the host: tdxctl td list"


class CallFailed(TdxStackError):
    """The TDX module's answer was an error. ``status`` is its 64-bit completion status."""

    def __init__(self, leaf: int, status: int) -> None:
        name = Leaf(leaf).name if leaf in set(Leaf) else f"leaf 0x{leaf:x}"
        super().__init__(f"TDX module (software): {name}: completion status 0x{status:016x}")
        self.status = status


class QuoteFailed(TdxStackError):
    """GetQuote came back without a quote. ``status`` is the shared buffer's."""

    def __init__(self, status: int) -> None:
        super().__init__(f"GetQuote: status 0x{status:016x}", hint="see the quoting service's log on the host")
        self.status = status


class Channel:
    """Calls to the TDX module model, one at a time, from any thread.

    Args:
        path: the port's device.
        seconds: how long one call may take, opening included.
    """

    def __init__(self, path: Path, *, seconds: float = CALL_SECONDS) -> None:
        self._path = path
        self._seconds = seconds
        self._lock = threading.Lock()
        self._descriptor = -1
        self._frames = FrameReader()
        self._in_step = False

    def close(self) -> None:
        """Let go of the port."""
        with self._lock:
            self._drop()

    def report(self, report_data: bytes) -> bytes:
        """TDG.MR.REPORT: 64 bytes of REPORTDATA -> TDREPORT_STRUCT."""
        return self.call(Leaf.MR_REPORT, report_data)

    def extend(self, index: int, digest: bytes) -> None:
        """TDG.MR.RTMR.EXTEND."""
        self.call(Leaf.MR_RTMR_EXTEND, struct.pack("<Q", index) + digest)

    def quote(self, report: bytes) -> bytes:
        """TDG.VP.VMCALL<GetQuote>: TDREPORT_STRUCT -> quote.

        Raises:
            QuoteFailed: the host made none.
        """
        room = QUOTE_BUFFER_SIZE - _QUOTE_HEADER.size
        buffer = _QUOTE_HEADER.pack(1, 0, len(report), 0) + report.ljust(room, b"\0")
        answer = self.call(Leaf.VP_VMCALL, struct.pack("<Q", GET_QUOTE) + buffer)
        if len(answer) < _QUOTE_HEADER.size:
            raise WireError("tdx_quote_buf", "version", 0, f"{len(answer)} bytes")
        _, status, _, length = _QUOTE_HEADER.unpack_from(answer)
        if status:
            raise QuoteFailed(status)
        if not 0 < length <= len(answer) - _QUOTE_HEADER.size:
            raise WireError("tdx_quote_buf", "out_len", 20, f"{length} of {len(answer) - _QUOTE_HEADER.size} bytes")
        return answer[_QUOTE_HEADER.size : _QUOTE_HEADER.size + length]

    def cc_events(self) -> bytes:
        """TCG_PCR_EVENT2 records, SHA-384 only, of what TDVF measures only inside a TD."""
        return self.call(Leaf.SOFTWARE_CC_EVENTS)

    def call(self, leaf: int, payload: bytes = b"") -> bytes:
        """One request and its answer.

        Raises:
            CallFailed: the TDX module's completion status is an error.
            SystemFault: no answer in time.
            PlatformMissing: the port is not there or in use.
        """
        with self._lock:
            deadline = time.monotonic() + self._seconds
            if not self._in_step:
                self._get_in_step(min(deadline, time.monotonic() + _SYNC_SECONDS))
            self._in_step = False
            response = self._exchange(channel.request(leaf, payload), deadline)
            self._in_step = True
        if response.value:
            raise CallFailed(leaf, response.value)
        return response.payload

    def _get_in_step(self, deadline: float) -> None:
        while True:
            nonce = os.urandom(_REPORT_DATA_SIZE)
            try:
                self._send(channel.request(Leaf.MR_REPORT, nonce).to_bytes(), deadline)
                for frame in self._receive(deadline):
                    if len(frame.payload) == _TDREPORT_SIZE and frame.payload[_REPORT_DATA] == nonce:
                        return
            except (WireError, ConnectionError):
                self._drop()
                time.sleep(_PAUSE_SECONDS)

    def _exchange(self, request: Frame, deadline: float) -> Frame:
        try:
            self._send(request.to_bytes(), deadline)
            return next(self._receive(deadline))
        except ConnectionError as error:
            self._drop()
            raise SystemFault(f"TD channel {self._path}: {error}", hint=_HINT) from error
        except WireError:
            self._drop()
            raise

    def _send(self, data: bytes, deadline: float) -> None:
        view = memoryview(data)
        while view:
            self._wait(select.POLLOUT, deadline, patient=len(view) == len(data))
            with contextlib.suppress(BlockingIOError):
                view = view[os.write(self._descriptor, view) :]

    def _receive(self, deadline: float) -> Iterator[Frame]:
        """Answers as they come in; ends by an error only."""
        while True:
            self._wait(select.POLLIN, deadline, patient=False)
            try:
                data = os.read(self._descriptor, _CHUNK)
            except BlockingIOError:
                continue
            if not data:
                raise ConnectionResetError("the host closed the channel")
            for frame in self._frames.feed(data):
                if frame.kind is FrameKind.RESPONSE:
                    yield frame

    def _wait(self, events: int, deadline: float, *, patient: bool) -> None:
        """Wait until the port is ready; if ``patient``, a host that is not connected (POLLHUP) may come yet."""
        if self._descriptor < 0:
            self._open()
        poller = select.poll()
        poller.register(self._descriptor, events)
        while (left := deadline - time.monotonic()) > 0:
            for _, got in poller.poll(left * 1000):
                if got & events:
                    return
                if not patient:
                    raise ConnectionResetError("the host closed the channel")
                time.sleep(_PAUSE_SECONDS)
        raise SystemFault(f"TD channel {self._path}: no answer within {self._seconds:g} s", hint=_HINT)

    def _open(self) -> None:
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise PlatformMissing(
                f"TD channel {self._path}: {error.strerror}",
                hint="one process serves it: systemctl status tdxstack-guest",
            ) from error
        self._frames = FrameReader()

    def _drop(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1
        self._in_step = False
        self._frames = FrameReader()

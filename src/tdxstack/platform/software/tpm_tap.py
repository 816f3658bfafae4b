"""Sees what a guest extends into its TPM: stands between QEMU's ``tpmdev emulator`` and swtpm.

QEMU speaks swtpm's control protocol (swtpm, ``tpm_ioctl.h``) over a chardev socket, and hands swtpm the socket for
TPM commands as a file descriptor in CMD_SET_DATAFD. The tap passes control messages on, gives swtpm a socket of its
own in place of QEMU's, and relays commands and responses between the two. A command that extends a PCR is reported
when the TPM has said yes and before the guest hears of it, so that no guest is ahead of its registers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable, Coroutine
from enum import IntEnum, IntFlag
from pathlib import Path

from tdxstack.errors import StateError, WireError
from tdxstack.wire import tpm2
from tdxstack.wire.tpm2 import Extend

_CHUNK = 64 * 1024
_CONNECT_SECONDS = 5.0
_U32 = struct.Struct(">I")


class Control(IntEnum):
    """Control commands of swtpm; those not listed have no payload."""

    INIT = 2
    SET_LOCALITY = 5
    HASH_DATA = 7
    RESET_TPMESTABLISHED = 11
    GET_STATEBLOB = 12
    SET_STATEBLOB = 13
    SET_DATAFD = 16
    SET_BUFFERSIZE = 17
    GET_INFO = 18
    LOCK_STORAGE = 19


class InitFlag(IntFlag):
    """Flags of CMD_INIT. QEMU sets DELETE_VOLATILE when it resumes a TPM from saved state, and only then."""

    DELETE_VOLATILE = 1


#: Least bytes of payload that follow the command number.
_PAYLOAD: dict[int, int] = {
    Control.INIT: 4,
    Control.SET_LOCALITY: 1,
    Control.HASH_DATA: 4,
    Control.RESET_TPMESTABLISHED: 1,
    Control.GET_STATEBLOB: 12,
    Control.SET_STATEBLOB: 12,
    Control.SET_BUFFERSIZE: 4,
    Control.GET_INFO: 16,
    Control.LOCK_STORAGE: 4,
}
#: Commands whose payload ends with the length of the data that follows.
_WITH_DATA = (Control.HASH_DATA, Control.SET_STATEBLOB)


class ControlReader:
    """Tells requests from the data of state blobs in QEMU's control stream.

    QEMU writes a request at once and waits for the answer, and swtpm reads a request at once; some requests are
    longer than what they carry (C unions). So a request is what arrived together, once its least size is there.
    """

    def __init__(self) -> None:
        self._buffer = b""
        self._data_left = 0

    def feed(self, data: bytes) -> list[tuple[int | None, bytes]]:
        """Take bytes as they arrived; return what can go on: requests with their command, data with None."""
        parts: list[tuple[int | None, bytes]] = []
        self._buffer += data
        while self._buffer:
            if self._data_left:
                taken, self._buffer = self._buffer[: self._data_left], self._buffer[self._data_left :]
                self._data_left -= len(taken)
                parts.append((None, taken))
                continue
            if len(self._buffer) < 4:
                break
            (command,) = _U32.unpack_from(self._buffer)
            least = 4 + _PAYLOAD.get(command, 0)
            if len(self._buffer) < least:
                break
            end = least if command in _WITH_DATA else len(self._buffer)
            if command in _WITH_DATA:
                (self._data_left,) = _U32.unpack_from(self._buffer, least - 4)
            parts.append((command, self._buffer[:end]))
            self._buffer = self._buffer[end:]
        return parts


class TpmTap:
    """One tap for one VM.

    Args:
        listen: path of the unix socket that QEMU's chardev connects to.
        control: path of swtpm's control socket.
        on_extend: called with each extend, in order.
        on_start: called when the TPM is started; with True if it resumes from saved state.
    """

    def __init__(
        self,
        listen: Path,
        control: Path,
        on_extend: Callable[[Extend], None],
        on_start: Callable[[bool], None],
    ) -> None:
        self._listen_path = listen
        self._control_path = control
        self._on_extend = on_extend
        self._on_start = on_start
        self._sockets: list[socket.socket] = []
        self._data: asyncio.Task[None] | None = None
        self._tpm: socket.socket | None = None
        self._turn = asyncio.Lock()
        self._failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None

    def listen(self) -> None:
        """Listen for QEMU; from here on its chardev can connect."""
        self._listen_path.unlink(missing_ok=True)
        listener = self._own(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        listener.bind(str(self._listen_path))
        listener.listen(1)
        self._task = asyncio.create_task(self._guard(self._serve(listener), "TPM tap"))

    async def execute(self, command: bytes) -> bytes:
        """Send the TPM a command of our own, between two of the guest's; return its response.

        Raises:
            StateError: QEMU has not handed over its TPM socket yet.
            WireError: the TPM ended, or its response is none.
        """
        if self._tpm is None:
            raise StateError("TPM tap", "send a command", "without a TPM", "a machine that has started")
        async with self._turn:
            return await self._transact(self._tpm, command)

    async def failed(self) -> str:
        """Wait until the tap ends; say why."""
        return await asyncio.shield(self._failed)

    async def close(self) -> None:
        """End all tasks, close all sockets."""
        for task in (self._task, self._data):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        for item in self._sockets:
            item.close()
        self._sockets.clear()
        self._listen_path.unlink(missing_ok=True)
        self._fail("closed")

    def _own(self, item: socket.socket) -> socket.socket:
        item.setblocking(False)
        self._sockets.append(item)
        return item

    def _fail(self, reason: str) -> None:
        if not self._failed.done():
            self._failed.set_result(reason)

    async def _guard(self, work: Coroutine[None, None, None], name: str) -> None:
        """Run ``work``; whatever ends it, other than close, has failed the tap: QEMU must not wait for answers."""
        try:
            await work
            self._fail(f"{name}: the connection ended")
        except (OSError, WireError) as error:
            self._fail(f"{name}: {error}")
        for item in self._sockets:
            with contextlib.suppress(OSError):
                item.shutdown(socket.SHUT_RDWR)

    async def _serve(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        qemu, _ = await loop.sock_accept(listener)
        self._own(qemu)
        swtpm = self._own(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        await self._connect(swtpm)
        answers = asyncio.create_task(self._answers(swtpm, qemu))
        try:
            await self._requests(qemu, swtpm)
        finally:
            answers.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await answers

    async def _connect(self, swtpm: socket.socket) -> None:
        """Connect to swtpm, whose socket is there some moments before it listens."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _CONNECT_SECONDS
        while True:
            try:
                return await loop.sock_connect(swtpm, str(self._control_path))
            except ConnectionRefusedError:
                if loop.time() > deadline:
                    raise
            await asyncio.sleep(0.01)

    async def _answers(self, swtpm: socket.socket, qemu: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(swtpm, _CHUNK):
            await loop.sock_sendall(qemu, data)
        self._fail("swtpm closed its control connection")

    async def _requests(self, qemu: socket.socket, swtpm: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        reader = ControlReader()
        waiting: list[int] = []
        while True:
            data, descriptors = await _receive(qemu)
            waiting += descriptors
            if not data:
                _close(waiting)
                return
            for command, part in reader.feed(data):
                if command == Control.SET_DATAFD and waiting:
                    await _send(swtpm, part, self._replace(waiting))
                    continue
                if command == Control.INIT:
                    self._on_start(bool(_U32.unpack_from(part, 4)[0] & InitFlag.DELETE_VOLATILE))
                await loop.sock_sendall(swtpm, part)

    def _replace(self, descriptors: list[int]) -> socket.socket:
        """Take QEMU's data socket and return the one that swtpm gets in its place."""
        guest = self._own(socket.socket(fileno=descriptors.pop(0)))
        _close(descriptors)
        descriptors.clear()
        ours, theirs = socket.socketpair()
        self._tpm = self._own(ours)
        if self._data is not None:
            self._data.cancel()
        self._data = asyncio.create_task(self._guard(self._relay(guest, ours), "TPM data"))
        return theirs

    async def _relay(self, guest: socket.socket, tpm: socket.socket) -> None:
        """Commands and responses strictly alternate."""
        loop = asyncio.get_running_loop()
        while command := await _message(guest):
            async with self._turn:
                response = await self._transact(tpm, command)
            await loop.sock_sendall(guest, response)

    async def _transact(self, tpm: socket.socket, command: bytes) -> bytes:
        await asyncio.get_running_loop().sock_sendall(tpm, command)
        response = await _message(tpm)
        if response is None:
            raise WireError("TPM2 response", "header", 0, "swtpm closed the connection")
        extend = tpm2.extend_of(command, response)
        if extend is not None:
            self._on_extend(extend)
        return response


async def _message(source: socket.socket) -> bytes | None:
    """One whole TPM command or response; None at the end of the stream."""
    loop = asyncio.get_running_loop()
    data = await loop.sock_recv(source, _CHUNK)
    while data:
        size = tpm2.message_size(data)
        if size is not None and len(data) >= size:
            if len(data) > size:
                raise WireError("TPM2 header", "size", 2, f"{len(data) - size} bytes behind a message of {size}")
            return data
        more = await loop.sock_recv(source, _CHUNK)
        if not more:
            return None
        data += more
    return None


async def _readable(source: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(source, wake)
    try:
        await ready
    finally:
        loop.remove_reader(source)


async def _receive(source: socket.socket) -> tuple[bytes, list[int]]:
    """Bytes and the file descriptors that came with them."""
    while True:
        await _readable(source)
        with contextlib.suppress(BlockingIOError):
            data, descriptors, _, _ = socket.recv_fds(source, _CHUNK, 4)
            return data, list(descriptors)


async def _send(target: socket.socket, data: bytes, passed: socket.socket) -> None:
    """Send bytes and a file descriptor, which this process then lets go of."""
    try:
        sent = socket.send_fds(target, [data], [passed.fileno()])
    finally:
        passed.close()
    if sent < len(data):
        await asyncio.get_running_loop().sock_sendall(target, data[sent:])


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)

"""The tap between QEMU and swtpm: against a stand-in, and with a real swtpm."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tdxstack.errors import StateError
from tdxstack.platform.software.swtpm import Swtpm
from tdxstack.platform.software.tpm_tap import Control, ControlReader, TpmTap
from tdxstack.wire.tcg import Algorithm
from tdxstack.wire.tpm2 import Extend

OK = struct.pack(">HII", 0x8001, 10, 0)

needs_swtpm = pytest.mark.skipif(
    not (shutil.which("swtpm") and shutil.which("swtpm_setup")), reason="swtpm is not installed"
)


def u32(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


def pcr_extend(pcr: int, digest: bytes) -> bytes:
    authorisation = struct.pack(">IHBH", 0x40000009, 0, 0, 0)
    body = u32(pcr, len(authorisation)) + authorisation + u32(1) + struct.pack(">H", Algorithm.SHA384) + digest
    return struct.pack(">HII", 0x8002, 10 + len(body), 0x182) + body


def pcr_read(pcr: int) -> bytes:
    return struct.pack(">HIIIHB", 0x8001, 20, 0x17E, 1, Algorithm.SHA384, 3) + (1 << pcr).to_bytes(3, "little")


class TestControlReader:
    def test_requests_pass_as_they_come(self) -> None:
        reader = ControlReader()
        assert reader.feed(u32(1)) == [(1, u32(1))]
        assert reader.feed(u32(Control.SET_LOCALITY) + b"\0\0\0\0") == [(5, u32(5) + bytes(4))]
        assert reader.feed(u32(Control.INIT)) == []
        assert reader.feed(u32(1)) == [(Control.INIT, u32(2, 1))]

    def test_state_blobs_are_not_taken_for_requests(self) -> None:
        reader = ControlReader()
        head = u32(Control.SET_STATEBLOB, 0, 1, 12)
        assert reader.feed(head + u32(Control.INIT)) == [(13, head), (None, u32(2))]
        assert reader.feed(u32(Control.INIT, Control.INIT) + u32(3)) == [(None, u32(2, 2)), (3, u32(3))]

    def test_a_number_in_pieces(self) -> None:
        reader = ControlReader()
        assert reader.feed(b"\0\0") == []
        assert reader.feed(b"\0\x10") == [(Control.SET_DATAFD, u32(16))]


@dataclass
class Machine:
    """QEMU's side of a tap: its control connection and its data socket."""

    tap: TpmTap
    control: socket.socket
    data: socket.socket
    extends: list[Extend] = field(default_factory=list)
    starts: list[bool] = field(default_factory=list)

    async def ask(self, message: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self.control, message)
        return await loop.sock_recv(self.control, 4096)

    async def command(self, command: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self.data, command)
        async with asyncio.timeout(10):
            return await loop.sock_recv(self.data, 4096)


@asynccontextmanager
async def machine(directory: Path, control: Path) -> AsyncIterator[Machine]:
    """Connect as QEMU does: the chardev, then the data socket by CMD_SET_DATAFD."""
    loop = asyncio.get_running_loop()
    extends: list[Extend] = []
    starts: list[bool] = []
    tap = TpmTap(directory / "tap.sock", control, extends.append, starts.append)
    tap.listen()
    chardev = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    chardev.setblocking(False)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    try:
        await loop.sock_connect(chardev, str(directory / "tap.sock"))
        socket.send_fds(chardev, [u32(Control.SET_DATAFD)], [theirs.fileno()])
        theirs.close()
        async with asyncio.timeout(10):
            assert await loop.sock_recv(chardev, 4096) == u32(0)
        yield Machine(tap, chardev, ours, extends, starts)
    finally:
        chardev.close()
        ours.close()
        await tap.close()


class FakeSwtpm:
    """Says yes to every control request and answers commands by a function."""

    def __init__(self, path: Path, answer: bytes | None = OK) -> None:
        self.answer = answer
        self.requests: list[bytes] = []
        self.data: socket.socket | None = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._tasks = [asyncio.create_task(self._serve())]

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        control, _ = await loop.sock_accept(self._listener)
        control.setblocking(False)
        with control:
            while True:
                ready = asyncio.Event()
                loop.add_reader(control, ready.set)
                await ready.wait()
                loop.remove_reader(control)
                data, descriptors, _, _ = socket.recv_fds(control, 4096, 4)
                if not data:
                    return
                self.requests.append(data)
                if descriptors:
                    self.data = socket.socket(fileno=descriptors[0])
                    self.data.setblocking(False)
                    self._tasks.append(asyncio.create_task(self._commands(self.data)))
                await loop.sock_sendall(control, u32(0))

    async def _commands(self, data: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while await loop.sock_recv(data, 4096):
            if self.answer is None:
                data.close()
                return
            await loop.sock_sendall(data, self.answer)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._listener.close()
        if self.data:
            self.data.close()


@asynccontextmanager
async def faked(directory: Path, answer: bytes | None = OK) -> AsyncIterator[tuple[Machine, FakeSwtpm]]:
    fake = FakeSwtpm(directory / "ctrl.sock", answer)
    try:
        async with machine(directory, directory / "ctrl.sock") as qemu:
            yield qemu, fake
    finally:
        await fake.close()


def test_extend_is_reported_before_the_guest_hears(tmp_path: Path) -> None:
    async def main() -> None:
        async with faked(tmp_path) as (qemu, _):
            assert await qemu.command(pcr_extend(7, b"d" * 48)) == OK
            assert [(item.pcr, item.digest(Algorithm.SHA384)) for item in qemu.extends] == [(7, b"d" * 48)]

    asyncio.run(main())


def test_refused_extend_is_not_reported(tmp_path: Path) -> None:
    async def main() -> None:
        refused = struct.pack(">HII", 0x8001, 10, 0x101)
        async with faked(tmp_path, refused) as (qemu, _):
            assert await qemu.command(pcr_extend(7, b"d" * 48)) == refused
            assert qemu.extends == []

    asyncio.run(main())


def test_command_in_pieces(tmp_path: Path) -> None:
    async def main() -> None:
        async with faked(tmp_path) as (qemu, _):
            command = pcr_extend(7, b"d" * 48)
            for start in range(0, len(command), 5):
                await asyncio.get_running_loop().sock_sendall(qemu.data, command[start : start + 5])
                await asyncio.sleep(0)
            assert await asyncio.get_running_loop().sock_recv(qemu.data, 100) == OK
            assert len(qemu.extends) == 1

    asyncio.run(main())


def test_starts_are_told(tmp_path: Path) -> None:
    async def main() -> None:
        async with faked(tmp_path) as (qemu, fake):
            for flags in (0, 1, 0):
                assert await qemu.ask(u32(Control.INIT, flags)) == u32(0)
            assert qemu.starts == [False, True, False]
            assert fake.requests[1:] == [u32(2, 0), u32(2, 1), u32(2, 0)]

    asyncio.run(main())


@pytest.mark.parametrize("end", ["guest", "swtpm", "bad size"])
def test_end_of_a_side_is_told(tmp_path: Path, end: str) -> None:
    async def main() -> None:
        async with faked(tmp_path, None if end == "swtpm" else OK) as (qemu, _):
            failed = asyncio.create_task(qemu.tap.failed())
            await asyncio.sleep(0.01)
            assert not failed.done()
            if end == "guest":
                qemu.data.close()
            else:
                command = pcr_extend(1, bytes(48)) if end == "swtpm" else b"\x80\x01\0\0\0\5" + bytes(4)
                await asyncio.get_running_loop().sock_sendall(qemu.data, command)
            async with asyncio.timeout(5):
                assert "TPM" in await failed

    asyncio.run(main())


def test_command_of_our_own(tmp_path: Path) -> None:
    async def main() -> None:
        tap = TpmTap(tmp_path / "a", tmp_path / "b", lambda _: None, lambda _: None)
        with pytest.raises(StateError):
            await tap.execute(pcr_read(0))
        await tap.close()
        async with faked(tmp_path) as (qemu, _):
            assert await qemu.tap.execute(pcr_read(0)) == OK

    asyncio.run(main())


def test_no_descriptor_is_lost(tmp_path: Path) -> None:
    async def main() -> None:
        before = len(os.listdir("/proc/self/fd"))
        async with faked(tmp_path) as (qemu, _):
            await qemu.command(pcr_extend(7, b"d" * 48))
        await asyncio.sleep(0)
        assert len(os.listdir("/proc/self/fd")) == before

    asyncio.run(main())


def test_swtpm_that_listens_late(tmp_path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        late = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        late.setblocking(False)
        late.bind(str(tmp_path / "ctrl.sock"))
        tap = TpmTap(tmp_path / "tap.sock", tmp_path / "ctrl.sock", lambda _: None, lambda _: None)
        tap.listen()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as qemu:
            qemu.setblocking(False)
            await loop.sock_connect(qemu, str(tmp_path / "tap.sock"))
            await asyncio.sleep(0.05)
            late.listen(1)
            async with asyncio.timeout(5):
                control, _ = await loop.sock_accept(late)
            control.close()
        await tap.close()
        late.close()

    asyncio.run(main())


def test_qemu_does_not_wait_for_a_tap_that_failed(tmp_path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        tap = TpmTap(tmp_path / "tap.sock", tmp_path / "nothing", lambda _: None, lambda _: None)
        tap.listen()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as qemu:
            qemu.setblocking(False)
            await loop.sock_connect(qemu, str(tmp_path / "tap.sock"))
            async with asyncio.timeout(5):
                assert "No such file" in await tap.failed()
                assert await loop.sock_recv(qemu, 10) == b""
        await tap.close()

    asyncio.run(main())


@needs_swtpm
@pytest.mark.processes
def test_real_swtpm(tmp_path: Path) -> None:
    async def main() -> None:
        swtpm = Swtpm(tmp_path / "state", tmp_path / "ctrl.sock", tmp_path / "log")
        await swtpm.start()
        try:
            async with machine(tmp_path, tmp_path / "ctrl.sock") as qemu:
                assert (await qemu.ask(u32(Control.INIT, 0)))[:4] == u32(0)
                assert (await qemu.command(struct.pack(">HIIH", 0x8001, 12, 0x144, 0)))[6:10] == u32(0)
                assert (await qemu.command(pcr_extend(7, b"d" * 48)))[6:10] == u32(0)
                value = hashlib.sha384(bytes(48) + b"d" * 48).digest()
                assert (await qemu.tap.execute(pcr_read(7)))[-48:] == value
                # TPM2_PCR_Event: the TPM hashes "abc" in each bank.
                authorisation = struct.pack(">IHBH", 0x40000009, 0, 0, 0)
                body = u32(7, len(authorisation)) + authorisation + b"\0\3abc"
                answer = await qemu.command(struct.pack(">HII", 0x8002, 10 + len(body), 0x13C) + body)
                assert answer[6:10] == u32(0)
                assert qemu.extends[1].digest(Algorithm.SHA384) == hashlib.sha384(b"abc").digest()
                assert qemu.extends[1].digest(Algorithm.SHA256) == hashlib.sha256(b"abc").digest()
                assert len(qemu.extends) == 2
            assert swtpm.returncode is None
        finally:
            await swtpm.close()
        assert swtpm.returncode is not None
        assert not (tmp_path / "ctrl.sock").exists()

    asyncio.run(main())


@needs_swtpm
@pytest.mark.processes
def test_killed_swtpm_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        swtpm = Swtpm(tmp_path / "state", tmp_path / "ctrl.sock", tmp_path / "log")
        await swtpm.start()
        ended = asyncio.create_task(swtpm.ended())
        await asyncio.sleep(0.05)
        assert not ended.done()
        assert swtpm.pid is not None
        os.kill(swtpm.pid, 9)
        async with asyncio.timeout(5):
            assert "swtpm ended with status -9" in await ended
        await swtpm.close()

    asyncio.run(main())

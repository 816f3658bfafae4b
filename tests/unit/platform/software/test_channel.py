"""The channel: leaves, GetQuote, and streams that go wrong."""

from __future__ import annotations

import asyncio
import hashlib
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tdxstack.errors import SystemFault
from tdxstack.platform.software import channel as host
from tdxstack.platform.software.channel import ChannelServer, Leaves
from tdxstack.platform.software.platform import SoftwarePlatform
from tdxstack.platform.software.qgs_server import QgsServer, QgsService
from tdxstack.platform.software.status import Status
from tdxstack.platform.software.td import TrustDomain
from tdxstack.wire import qgs
from tdxstack.wire.channel import Frame, FrameKind, Leaf, request
from tdxstack.wire.quote import Quote
from tdxstack.wire.tdreport import TdReport

GET_QUOTE = struct.pack("<Q", 0x10002)


def buffer(data: bytes, size: int = 8192, version: int = 1) -> bytes:
    return struct.pack("<QQII", version, 0, len(data), 0) + data.ljust(size - 24, b"\0")


def ask(td: TrustDomain, leaf: int, payload: bytes = b"", path: Path = Path("/nowhere")) -> Frame:
    answer = asyncio.run(Leaves(lambda: td, b"events", path).answer(request(leaf, payload)))
    assert answer.kind is FrameKind.RESPONSE
    return answer


def test_report(td: TrustDomain) -> None:
    answer = ask(td, Leaf.MR_REPORT, b"r" * 64)
    assert answer.value == 0
    assert TdReport.from_bytes(answer.payload).report_data == b"r" * 64
    assert ask(td, Leaf.MR_REPORT, b"r" * 63).value == 0xC000010000000002


def test_rtmr_extend_and_measurements(td: TrustDomain) -> None:
    assert ask(td, Leaf.MR_RTMR_EXTEND, struct.pack("<Q", 3) + b"d" * 48) == Frame(FrameKind.RESPONSE, 0)
    answer = ask(td, Leaf.SOFTWARE_MEASUREMENTS)
    expected = hashlib.sha384(bytes(48) + b"d" * 48).digest()
    assert answer.payload == td.mrtd + bytes(144) + expected
    assert ask(td, Leaf.MR_RTMR_EXTEND, struct.pack("<Q", 4) + b"d" * 48).value == 0xC000010000000002
    assert ask(td, Leaf.MR_RTMR_EXTEND, b"d" * 48).value == 0xC000010000000001


def test_cc_events(td: TrustDomain) -> None:
    assert ask(td, Leaf.SOFTWARE_CC_EVENTS).payload == b"events"


@pytest.mark.parametrize(
    ("leaf", "payload"),
    [
        (99, b""),
        (Leaf.VP_VMCALL, b""),
        (Leaf.VP_VMCALL, struct.pack("<Q", 0x10003) + bytes(100)),
        (Leaf.VP_VMCALL, GET_QUOTE + bytes(23)),
    ],
)
def test_invalid_operands(td: TrustDomain, leaf: int, payload: bytes) -> None:
    assert ask(td, leaf, payload).value & 0xFFFFFFFF00000000 == Status.OPERAND_INVALID


def test_a_response_is_no_request(td: TrustDomain) -> None:
    leaves = Leaves(lambda: td, b"", Path("/nowhere"))
    answer = asyncio.run(leaves.answer(Frame(FrameKind.RESPONSE, Leaf.MR_REPORT, bytes(64))))
    assert answer.value == Status.OPERAND_INVALID


def quote_call(platform: SoftwarePlatform, td: TrustDomain, path: Path, data: bytes) -> tuple[int, bytes]:
    """Status and data that GetQuote leaves in the shared buffer."""

    async def main() -> Frame:
        server = QgsServer(QgsService(platform))
        await server.listen_unix(path)
        try:
            return await Leaves(lambda: td, b"", path).answer(request(Leaf.VP_VMCALL, GET_QUOTE + data))
        finally:
            await server.close()

    answer = asyncio.run(main())
    assert answer.value == 0
    assert len(answer.payload) == len(data)
    version, status, in_length, out_length = struct.unpack_from("<QQII", answer.payload)
    assert (version, in_length) == struct.unpack_from("<Q8xI4x", data)
    return status, answer.payload[24 : 24 + out_length]


def test_get_quote_of_a_report(platform: SoftwarePlatform, td: TrustDomain, tmp_path: Path) -> None:
    status, data = quote_call(platform, td, tmp_path / "q", buffer(td.mr_report(b"n" * 64).to_bytes()))
    assert status == 0
    assert Quote.from_bytes(data).to_bytes() == data


def test_get_quote_framed(platform: SoftwarePlatform, td: TrustDomain, tmp_path: Path) -> None:
    message = qgs.frame(qgs.GetQuoteRequest(td.mr_report(bytes(64)).to_bytes(), (qgs.TDX_QE_ID,)).to_bytes())
    status, data = quote_call(platform, td, tmp_path / "q", buffer(message))
    assert status == 0
    answer = qgs.parse(qgs.unframe(data))
    assert isinstance(answer, qgs.GetQuoteResponse)
    Quote.from_bytes(answer.quote)


def test_get_quote_refused(platform: SoftwarePlatform, td: TrustDomain, tmp_path: Path) -> None:
    report = td.mr_report(bytes(64)).to_bytes()
    error = 0x8000000000000000
    path = tmp_path / "q"
    assert quote_call(platform, td, path, buffer(bytes(1024))) == (error, b"")
    assert quote_call(platform, td, path, buffer(report, version=2)) == (error, b"")
    assert quote_call(platform, td, path, buffer(report, size=4096)) == (error, b"")
    assert quote_call(platform, td, path, buffer(b"")) == (error, b"")
    assert quote_call(platform, td, path, buffer(b"junk")) == (error, b"")
    too_long = struct.pack("<QQII", 1, 0, 5000, 0) + bytes(4000)
    assert quote_call(platform, td, path, too_long) == (error, b"")


def test_get_quote_without_a_qgs(td: TrustDomain) -> None:
    answer = ask(td, Leaf.VP_VMCALL, GET_QUOTE + buffer(td.mr_report(bytes(64)).to_bytes()))
    assert struct.unpack_from("<QQ", answer.payload)[1] == 0x8000000000000001


class Qemu:
    """QEMU's side of the channel: a listening socket, connection after connection."""

    def __init__(self) -> None:
        self.connections: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self.connections.put((reader, writer))


@asynccontextmanager
async def attached(td: TrustDomain, path: Path) -> AsyncIterator[tuple[ChannelServer, Qemu, asyncio.Server]]:
    qemu = Qemu()
    listener = await asyncio.start_unix_server(qemu.accept, path)
    server = ChannelServer(path, Leaves(lambda: td, b"events", Path("/nowhere")))
    await server.attach()
    try:
        async with asyncio.timeout(10):
            yield server, qemu, listener
    finally:
        await server.close()
        listener.close()


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> Frame:
    writer.write(data)
    head = await reader.readexactly(4)
    return Frame.from_bytes(head + await reader.readexactly(int.from_bytes(head, "little")))


def test_served_over_the_socket(td: TrustDomain, tmp_path: Path) -> None:
    async def main() -> None:
        async with attached(td, tmp_path / "c") as (server, qemu, listener):
            reader, writer = await qemu.connections.get()
            assert (await exchange(reader, writer, request(Leaf.SOFTWARE_CC_EVENTS).to_bytes())).payload == b"events"
            failed = asyncio.create_task(server.failed())
            listener.close()
            writer.close()
            assert "closed" in await failed

    asyncio.run(main())


@pytest.mark.parametrize("junk", [b"\xff" * 40, request(4, bytes(64)).to_bytes()[:30]])
def test_junk_resets_the_stream(
    td: TrustDomain, tmp_path: Path, junk: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "PARTIAL_SECONDS", 0.05)

    async def main() -> None:
        async with attached(td, tmp_path / "c") as (_, qemu, _listener):
            reader, writer = await qemu.connections.get()
            writer.write(junk)
            assert await reader.read() == b""
            writer.close()
            answer = await exchange(*await qemu.connections.get(), request(Leaf.SOFTWARE_CC_EVENTS).to_bytes())
            assert answer.payload == b"events"

    asyncio.run(main())


def test_no_qemu(td: TrustDomain, tmp_path: Path) -> None:
    async def main() -> None:
        server = ChannelServer(tmp_path / "c", Leaves(lambda: td, b"", Path("/nowhere")))
        with pytest.raises(SystemFault, match="no TD channel"):
            await server.attach(seconds=0.2)
        await server.close()

    asyncio.run(main())

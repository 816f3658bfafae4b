"""The QGS over its socket: framed and raw, whole and in pieces, good and bad."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import struct
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tdxstack.errors import SystemFault
from tdxstack.platform import qgs_client
from tdxstack.platform.software import qgs_server
from tdxstack.platform.software.collateral import Collateral
from tdxstack.platform.software.platform import SoftwarePlatform
from tdxstack.platform.software.qgs_server import MAX_PER_CLIENT, QgsServer, QgsService
from tdxstack.platform.software.td import TrustDomain
from tdxstack.wire import qgs
from tdxstack.wire.qgs import GetCollateralRequest, GetPlatformInfoRequest, GetQuoteRequest, QgsError
from tdxstack.wire.quote import Quote

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def serving(platform: SoftwarePlatform, path: Path, idle_seconds: float = 5.0) -> AsyncIterator[Path]:
    server = QgsServer(QgsService(platform), idle_seconds=idle_seconds)
    await server.listen_unix(path)
    try:
        yield path
    finally:
        await server.close()


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        async with asyncio.timeout(10):
            yield reader, writer
    finally:
        writer.close()


async def framed(streams: Streams) -> qgs.Message:
    reader, _ = streams
    length = qgs.frame_length(await reader.readexactly(4))
    return qgs.parse(await reader.readexactly(length))


def report_of(td: TrustDomain) -> bytes:
    return td.mr_report(b"n" * 64).to_bytes()


def test_quote(platform: SoftwarePlatform, td: TrustDomain, tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(platform, tmp_path / "q") as path:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            quote = Quote.from_bytes(await qgs_client.get_quote(path, report_of(td)))
            assert quote.header.version == 4
            platform.set_quote_version(5)
            quote = Quote.from_bytes(await qgs_client.get_quote(path, report_of(td)))
            assert quote.header.version == 5

    asyncio.run(main())
    assert not (tmp_path / "q").exists()


def test_many_requests_in_pieces_on_one_connection(
    platform: SoftwarePlatform, td: TrustDomain, tmp_path: Path
) -> None:
    async def main() -> None:
        async with serving(platform, tmp_path / "q") as path, connected(path) as streams:
            _, writer = streams
            message = qgs.frame(GetQuoteRequest(report_of(td), (bytes(16), qgs.TDX_QE_ID)).to_bytes())
            for piece in (1, 3, 500, len(message)):
                for start in range(0, len(message), piece):
                    writer.write(message[start : start + piece])
                    await writer.drain()
                answer = await framed(streams)
                assert isinstance(answer, qgs.GetQuoteResponse)
                assert answer.selected_id == qgs.TDX_QE_ID
                Quote.from_bytes(answer.quote)

    asyncio.run(main())


def test_raw_mode(platform: SoftwarePlatform, td: TrustDomain, tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(platform, tmp_path / "q") as path, connected(path) as (reader, writer):
            report = report_of(td)
            writer.write(report[:1000])
            await writer.drain()
            writer.write(report[1000:])
            Quote.from_bytes(await reader.read(65536))
        async with serving(platform, tmp_path / "q") as path, connected(path) as (reader, writer):
            writer.write(report[:-1] + b"x")
            assert await reader.read() == b""

    asyncio.run(main())


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (GetQuoteRequest(bytes(1024)).to_bytes(), QgsError.UNEXPECTED),
        (GetQuoteRequest(bytes(1023)).to_bytes(), QgsError.INVALID_PARAMETER),
        (GetQuoteRequest(bytes(1024), (bytes(16),)).to_bytes(), QgsError.INVALID_PARAMETER),
        (GetQuoteRequest(bytes(1024)).to_bytes()[:-1], QgsError.INVALID_SIZE),
        (struct.pack("<HHIII", 2, 0, 0, 16, 0), QgsError.INVALID_VERSION),
        (struct.pack("<HHIII", 1, 1, 9, 16, 0), QgsError.INVALID_TYPE),
        (struct.pack("<HHIII", 1, 1, 4, 16, 7), QgsError.INVALID_CODE),
        (qgs.GetQuoteResponse(b"q").to_bytes(), QgsError.INVALID_TYPE),
        (GetCollateralRequest(b"SWTDX\0", "processor").to_bytes(), QgsError.INVALID_PARAMETER),
        (GetCollateralRequest(bytes(6), "platform").to_bytes(), QgsError.INVALID_PARAMETER),
    ],
)
def test_refused_with_a_code(platform: SoftwarePlatform, tmp_path: Path, message: bytes, code: QgsError) -> None:
    async def main() -> None:
        async with serving(platform, tmp_path / "q") as path:
            answer = qgs.parse(await qgs_client.exchange(path, message))
            assert isinstance(answer, qgs.GetQuoteResponse | qgs.GetCollateralResponse | qgs.GetPlatformInfoResponse)
            assert answer.error_code == code
            asked = qgs.Header.from_bytes(message).type
            assert asked > 5 or asked | 1 == answer.TYPE

    asyncio.run(main())


@pytest.mark.parametrize("length", [0, 15, qgs.MAX_REQUEST + 1, 0xFFFFFFFF])
def test_impossible_length_ends_the_connection(platform: SoftwarePlatform, tmp_path: Path, length: int) -> None:
    async def main() -> None:
        async with serving(platform, tmp_path / "q") as path, connected(path) as streams:
            streams[1].write(length.to_bytes(4, "big"))
            answer = await framed(streams)
            assert isinstance(answer, qgs.GetQuoteResponse)
            assert answer.error_code == QgsError.INVALID_SIZE
            assert await streams[0].read() == b""

    asyncio.run(main())


def test_silence_ends_the_connection(platform: SoftwarePlatform, tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(platform, tmp_path / "q", 0.05) as path, connected(path) as (reader, writer):
            writer.write(b"\0\0")
            assert await reader.read() == b""

    asyncio.run(main())


def test_collateral_and_platform_info(platform: SoftwarePlatform, tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(platform, tmp_path / "q") as path:
            answers = [
                qgs.parse(
                    await qgs_client.exchange(path, GetCollateralRequest(b"SWTDX\0", "platform", minor).to_bytes())
                )
                for minor in (1, 0)
            ]
            expected = Collateral.from_json(platform.collateral())
            for answer in answers:
                assert isinstance(answer, qgs.GetCollateralResponse)
                assert answer.pck_crl == expected.pck_crl
                assert answer.tcb_info == expected.tcb_info_document.encode() + b"\0"
            assert len(answers[1].to_bytes()) == len(answers[0].to_bytes()) + 4
            info = qgs.parse(await qgs_client.exchange(path, GetPlatformInfoRequest().to_bytes()))
            assert info == qgs.GetPlatformInfoResponse(4, 13, b"software TD-QE\0\0", platform.tcb().cpusvn)

    asyncio.run(main())


def test_tcp_and_port_in_use(platform: SoftwarePlatform) -> None:
    async def main() -> None:
        first, second = QgsServer(QgsService(platform)), QgsServer(QgsService(platform))
        port = await first.listen_tcp("127.0.0.1", 0)
        with pytest.raises(SystemFault, match=str(port)) as caught:
            await second.listen_tcp("127.0.0.1", port)
        assert caught.value.hint
        await first.close()
        await second.close()

    asyncio.run(main())


def test_vsock_listens_and_tells_a_port_in_use(platform: SoftwarePlatform) -> None:
    async def main() -> None:
        first, second = QgsServer(QgsService(platform)), QgsServer(QgsService(platform))
        try:
            port = await first.listen_vsock(-1)
        except SystemFault as error:
            pytest.skip(str(error))
        with pytest.raises(SystemFault, match=str(port)):
            await second.listen_vsock(port)
        await first.close()
        await second.close()

    asyncio.run(main())


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(SystemFault):
        asyncio.run(qgs_client.get_quote(tmp_path / "q", bytes(1024)))


def test_clients_do_not_wait_for_each_other(platform: SoftwarePlatform, td: TrustDomain, tmp_path: Path) -> None:
    """A quote that takes long holds up nobody else, and one that waits for a slow one is made all the same."""
    started, release = threading.Event(), threading.Event()

    class Slow(QgsService):
        def quote(self, report: bytes) -> bytes:
            if report[128:136] == b"slowslow":
                started.set()
                assert release.wait(20)
            return super().quote(report)

    async def main() -> None:
        server = QgsServer(Slow(platform), idle_seconds=20)
        await server.listen_unix(tmp_path / "q")
        slow = asyncio.create_task(qgs_client.get_quote(tmp_path / "q", td.mr_report(b"slow" * 16).to_bytes()))
        await asyncio.to_thread(started.wait, 20)
        for _ in range(3):
            Quote.from_bytes(await qgs_client.get_quote(tmp_path / "q", report_of(td)))
        assert not slow.done()
        release.set()
        Quote.from_bytes(await slow)
        await server.close()

    asyncio.run(main())


def test_one_client_has_so_many_connections(
    platform: SoftwarePlatform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = iter(["a"] * (MAX_PER_CLIENT + 1) + ["b"])
    monkeypatch.setattr(qgs_server, "client_of", lambda _: next(clients))

    async def main() -> None:
        async with serving(platform, tmp_path / "q") as path, contextlib.AsyncExitStack() as stack:
            info = qgs.frame(GetPlatformInfoRequest().to_bytes())
            answered: list[int] = []
            for _ in range(MAX_PER_CLIENT + 2):
                streams = await stack.enter_async_context(connected(path))
                with contextlib.suppress(OSError):
                    streams[1].write(info)
                    await streams[1].drain()
                with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                    await framed(streams)
                    answered.append(len(answered))
                    continue
                answered.append(-1)
        assert [one < 0 for one in answered] == [False] * MAX_PER_CLIENT + [True, False]

    asyncio.run(main())


def test_who_is_at_the_other_end(platform: SoftwarePlatform, tmp_path: Path) -> None:
    seen: list[str] = []

    class Watching(QgsServer):
        def _admits(self, client: str) -> bool:
            seen.append(client)
            return super()._admits(client)

    async def main() -> None:
        server, tcp = Watching(QgsService(platform)), Watching(QgsService(platform))
        await server.listen_unix(tmp_path / "q")
        port = await tcp.listen_tcp("127.0.0.1", 0)
        await qgs_client.platform_info(tmp_path / "q")
        await qgs_client.platform_info(("127.0.0.1", port))
        await server.close()
        await tcp.close()

    asyncio.run(main())
    assert seen == [f"uid {os.getuid()}", "127.0.0.1"]


def test_a_client_that_reads_nothing_is_let_go(platform: SoftwarePlatform, tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(platform, tmp_path / "q", 0.3) as path, connected(path) as (_, writer):
            request = qgs.frame(GetCollateralRequest(b"SWTDX\0", "platform").to_bytes())
            with pytest.raises(ConnectionError):
                while True:
                    writer.write(request)
                    await asyncio.wait_for(writer.drain(), 60)

    asyncio.run(main())


def test_collateral_of_a_qgs_is_that_of_its_platform(platform: SoftwarePlatform, tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(platform, tmp_path / "q") as path:
            found = await qgs_client.get_collateral(path, b"SWTDX\0", "platform")
            published = platform.collateral()
            assert found == {name: published[name] for name in found}
            assert len(found) == 9
            with pytest.raises(qgs_client.QgsRefused, match="collateral") as caught:
                await qgs_client.get_collateral(path, bytes(6), "platform")
            assert "PCCS" in (caught.value.hint or "")

    asyncio.run(main())


def test_raw_quotes_of_both_versions(platform: SoftwarePlatform, td: TrustDomain, tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(platform, tmp_path / "q") as path:
            for version in (4, 5):
                platform.set_quote_version(version)
                raw = await qgs_client.get_raw_quote(path, report_of(td))
                assert Quote.from_bytes(raw).to_bytes() == raw
            with pytest.raises(SystemFault, match="without a quote"):
                await qgs_client.get_raw_quote(path, report_of(td)[:-1] + b"x")
        with pytest.raises(SystemFault, match="no QGS"):
            await qgs_client.get_raw_quote(tmp_path / "q", report_of(td))

    asyncio.run(main())

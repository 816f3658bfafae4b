from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tdxstack.vm.agent import AgentConnection, AgentError
from tdxstack.vm.error_document import RemoteError

Guest = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def _with_guest(path: Path, guest: Guest, test: Callable[[AgentConnection], Awaitable[None]]) -> None:
    async def main() -> None:
        server = await asyncio.start_unix_server(guest, str(path))
        connection = AgentConnection(path)
        await connection.open()
        try:
            await test(connection)
        finally:
            await connection.close()
            server.close()

    asyncio.run(main())


async def _answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Greets when asked to, talks nonsense in between, answers two requests in reverse order, then leaves."""
    assert await reader.readexactly(2) == b"\n\n"
    writer.write(b'not json\n[]\n{"event":"ready","version":"1"}\n')
    first, second = json.loads(await reader.readline()), json.loads(await reader.readline())
    error = {"type": "SystemFault", "message": "no", "hint": "try"}
    writer.write(json.dumps({"id": second["id"], "error": error}).encode() + b"\n")
    writer.write(json.dumps({"id": first["id"], "result": first["params"]}).encode() + b"\n")
    await writer.drain()
    await reader.readline()
    writer.close()


def test_answers_find_their_requests(tmp_path: Path) -> None:
    async def test(connection: AgentConnection) -> None:
        assert (await connection.wait_ready(5))["version"] == "1"
        first = asyncio.create_task(connection.call("echo", {"a": 1}, 5))
        await asyncio.sleep(0)
        second = asyncio.create_task(connection.call("fail", {}, 5))
        assert await first == {"a": 1}
        with pytest.raises(RemoteError, match="in the guest: no") as caught:
            await second
        assert caught.value.hint == "try"
        with pytest.raises(AgentError, match="closed its port"):
            await connection.call("more", {}, 5)
        assert not connection.ready

    _with_guest(tmp_path / "s", _answering, test)


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


def test_a_hung_guest(tmp_path: Path) -> None:
    async def test(connection: AgentConnection) -> None:
        with pytest.raises(AgentError, match="did not report within"):
            await connection.wait_ready(0.05)
        with pytest.raises(AgentError, match="did not answer ping within"):
            await connection.call("ping", {}, 0.05)

    _with_guest(tmp_path / "s", _silent, test)

"""The host end of the guest agent: newline-delimited JSON on the virtio-serial port ``org.tdxstack.agent.0``.

Request ``{"id", "method", "params"}``, answer ``{"id", "result"}`` or
``{"id", "error": {"type", "message", "hint"}}``; the guest says ``{"event": "ready", ...}`` when its agent starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tdxstack.errors import SystemFault
from tdxstack.vm.error_document import RemoteError, error_from_document

#: Longest line that an agent may send: a CCEL and a quote in base64 fit many times.
MAX_LINE = 16 << 20
#: Seconds that an answer may be behind the news that the guest has closed its port: they go different ways.
FLIGHT_TIME = 0.5
CLOSED = "the guest's agent closed its port"

#: Asks the guest for its greeting.
HELLO = b"\n\n"


class AgentError(SystemFault):
    """The guest agent answered with an error, or not at all."""


class AgentConnection:
    """One connection to the port's socket; requests may overlap, answers find their request by id."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._ready = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.greeting: dict[str, Any] = {}

    @property
    def ready(self) -> bool:
        """Whether the guest's agent has said that it is there."""
        return self._ready.is_set()

    async def open(self) -> None:
        """Connect to QEMU's end of the port; the guest need not be up.

        A guest that has been up for long (a TD taken up from a saved state) sees no new connection and would not
        greet. An empty line asks for the greeting; the newline before it ends what another host left half-written.
        """
        reader, self._writer = await asyncio.open_unix_connection(str(self._path), limit=MAX_LINE)
        self._writer.write(HELLO)
        self._task = asyncio.create_task(self._read(reader))

    async def wait_ready(self, within: float) -> dict[str, Any]:
        """The agent's greeting.

        Raises:
            AgentError: it did not come within ``within`` seconds.
        """
        try:
            await asyncio.wait_for(self._ready.wait(), within)
        except TimeoutError:
            raise AgentError(
                f"the guest's agent did not report within {within:g} s",
                hint="look at the guest's console: tdxctl td logs NAME",
            ) from None
        return self.greeting

    def gone(self) -> None:
        """The guest closed its end (QEMU's event VSERPORT_CHANGE). What it said before may still be on its way."""
        self._ready.clear()
        open_now = list(self._waiting.values())
        asyncio.get_running_loop().call_later(FLIGHT_TIME, _fail, open_now, CLOSED)

    async def call(self, method: str, params: Mapping[str, Any], within: float) -> Any:
        """The agent's answer to one request.

        Raises:
            RemoteError: an error from the guest, with its exit code.
            AgentError: no answer within ``within`` seconds.
        """
        if self._writer is None:
            raise AgentError("the guest's agent is not connected", hint="tdxctl td start NAME")
        number = next(self._ids)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            line = json.dumps({"id": number, "method": method, "params": dict(params)}).encode() + b"\n"
            self._writer.write(line)
            await self._writer.drain()
            return await asyncio.wait_for(future, within)
        except TimeoutError:
            raise AgentError(
                f"the guest's agent did not answer {method} within {within:g} s",
                hint="look at the guest's console: tdxctl td logs NAME",
            ) from None
        except OSError as error:
            raise AgentError(f"the guest's agent cannot be reached: {error}", hint="tdxctl td list") from error
        finally:
            self._waiting.pop(number, None)

    async def reopen(self) -> None:
        """Connect again, after the way to the port was broken and is there again."""
        await self.close()
        with contextlib.suppress(OSError):
            await self.open()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()
        _fail(list(self._waiting.values()), "the TD has ended")

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                self._take(line)
        except (ValueError, OSError):
            pass
        self._ready.clear()
        _fail(list(self._waiting.values()), CLOSED)

    def _take(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except ValueError:
            return
        if not isinstance(message, dict):
            return
        if message.get("event") == "ready":
            self.greeting = message
            self._ready.set()
            return
        future = self._waiting.get(message.get("id", 0))
        if future is None or future.done():
            return
        if "error" in message:
            future.set_exception(_error(message["error"]))
        else:
            future.set_result(message.get("result"))


def _fail(futures: Iterable[asyncio.Future[Any]], reason: str) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(AgentError(reason, hint="tdxctl td list"))


def _error(error: object) -> RemoteError:
    facts = error if isinstance(error, Mapping) else {"type": "AgentError", "message": error}
    return error_from_document({**facts, "message": f"in the guest: {facts.get('message')}"})

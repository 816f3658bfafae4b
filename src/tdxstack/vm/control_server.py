"""The supervisor's end of the control socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from tdxstack.errors import SystemFault, TdxStackError, UsageError
from tdxstack.vm.error_document import error_document

MAX_LINE = 16 << 20
FLUSH_TIMEOUT = 2.0

Method = Callable[[Mapping[str, Any]], Awaitable[Any]]


class ControlServer:
    """Answers requests about the TD ``name`` with ``methods``, each connection on its own, until closed."""

    def __init__(self, name: str, path: Path, methods: Mapping[str, Method]) -> None:
        self._name = name
        self._path = path
        self._methods = methods
        self._server: asyncio.Server | None = None
        self._busy: set[asyncio.Task[None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._connected, str(self._path), limit=MAX_LINE)

    async def close(self) -> None:
        """Take no more requests, let the present ones finish for a moment, and end."""
        if self._server is None:
            return
        self._server.close()
        if self._busy:
            await asyncio.wait(self._busy, timeout=FLUSH_TIMEOUT)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._path.unlink(missing_ok=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            return
        self._tasks.add(task)
        try:
            while line := await reader.readline():
                self._busy.add(task)
                writer.write(json.dumps(await self._answer(line)).encode() + b"\n")
                await writer.drain()
                self._busy.discard(task)
        except (OSError, ValueError, asyncio.CancelledError):
            return
        finally:
            self._busy.discard(task)
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            method = self._methods.get(request["method"])
            if method is None:
                raise UsageError(f"no method {request['method']!r}", hint=f"one of {', '.join(self._methods)}")
            return {"result": await method(request.get("params") or {})}
        except TdxStackError as error:
            return {"error": error_document(error, self._name)}
        except (ValueError, KeyError, TypeError) as error:
            fault = SystemFault(f"not a request: {type(error).__name__}: {error}")
            return {"error": error_document(fault, self._name)}

"""QEMU's monitor (QMP) as the supervisor uses it: a few commands, and the events that tell of the guest's life.

Reference: docs/interop/qmp-spec.rst and the QAPI schema of QEMU.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from qemu.qmp import ConnectError, EventListener, ExecInterruptedError, ExecuteError, QMPClient, QMPError, Runstate
from qemu.qmp import StateError as QmpStateError

from tdxstack.errors import SystemFault
from tdxstack.vm.machine import Event

CONNECT_INTERVAL = 0.02
#: qemu.qmp logs every lost connection; whoever asked is told by an error instead.
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)


class MonitorError(SystemFault):
    """QEMU refused a command, or its monitor is gone. ``command`` is what was asked."""

    def __init__(self, command: str, reason: str) -> None:
        super().__init__(f"QEMU: {command}: {reason}", hint="the log of QEMU: tdxctl td logs NAME --qemu")
        self.command = command


class Monitor:
    """A connection to one QEMU's QMP socket."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._client = QMPClient(path.parent.name)
        self._listener = EventListener()
        self._client.register_listener(self._listener)

    async def connect(self, within: float) -> None:
        """Connect as soon as QEMU listens, within ``within`` seconds.

        Raises:
            MonitorError: it did not.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within
        while True:
            try:
                await self._client.connect(str(self._path))
            except ConnectError as error:
                if loop.time() > deadline:
                    raise MonitorError("connect", f"no answer on {self._path}: {error}") from error
                await asyncio.sleep(CONNECT_INTERVAL)
            else:
                return

    async def execute(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """Run one QMP command and return its answer.

        Raises:
            MonitorError: QEMU answered with an error, or ended.
        """
        try:
            return await self._client.execute(command, dict(arguments) if arguments else None)
        except ExecuteError as error:
            raise MonitorError(command, str(error)) from error
        except (ExecInterruptedError, QmpStateError) as error:
            raise MonitorError(command, "QEMU has ended") from error

    async def events(self) -> AsyncIterator[Event]:
        """Events as they come; end it by cancelling."""
        while True:
            yield _event(await self._listener.get())

    async def remaining_events(self, within: float) -> list[Event]:
        """After QEMU has ended: what it said last, once the connection is read to its end."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within
        while self._client.runstate is Runstate.RUNNING and loop.time() < deadline:  # noqa: ASYNC110 - no such event
            await asyncio.sleep(CONNECT_INTERVAL)
        return [_event(message) for message in self._listener.clear()]

    async def close(self) -> None:
        """End the connection; QEMU goes on."""
        if self._client.runstate is Runstate.IDLE:
            return
        with contextlib.suppress(QMPError, OSError, EOFError):
            await self._client.disconnect()


def _event(message: Mapping[str, Any]) -> Event:
    return Event(str(message["event"]), message.get("data") or {})

"""One QEMU process with the platform session behind it, from its start to its end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from tdxstack.errors import StateError
from tdxstack.platform.base import TdSession
from tdxstack.system.process import Child, ended, spawn
from tdxstack.vm.dialects import Dialect
from tdxstack.vm.machine import Ending, Event, LaunchFailed
from tdxstack.vm.qemu import argv, migration
from tdxstack.vm.qemu.launch import Launch, completed
from tdxstack.vm.qemu.qmp import Monitor, MonitorError
from tdxstack.vm.spec import TdSpec

CONNECT_TIMEOUT = 30.0
QUIT_TIMEOUT = 5.0
DRAIN_TIMEOUT = 1.0
#: Why QEMU shuts down where it was told to do so instead of a reset (``ShutdownCause`` of its QAPI schema).
RESETS = ("guest-reset", "host-qmp-system-reset")
PARTING_TIME = 1.0
LOG_TAIL = 2000


class QemuMachine:
    """Starts, watches and ends one QEMU; owns its session. See :class:`tdxstack.vm.machine.Machine`."""

    def __init__(self, spec: TdSpec, dialect: Dialect, launch: Launch, session: TdSession, log: Path) -> None:
        self._spec = spec
        self._dialect = dialect
        self._launch = launch
        self._log = log
        self._child: Child | None = None
        self._shutdown: Event | None = None
        self.session = session
        self.monitor = Monitor(launch.qmp)

    @property
    def pid(self) -> int:
        return self._child.pid if self._child is not None else 0

    @property
    def agent_socket(self) -> Path:
        return self._launch.agent

    async def start(self, memory: Path | None = None) -> None:
        """Bring up the session and QEMU, and connect both; see the Protocol."""
        await self.session.start()
        launch = completed(self._launch, self._dialect, self.session, incoming=memory is not None)
        words = argv.build(self._spec, self._dialect, launch)
        with self._log.open("ab") as log:
            log.write((" ".join(words) + "\n").encode())
            log.flush()
            offset = log.tell()
            self._child = spawn(words, stdout=log, stderr=log)
        connecting = asyncio.create_task(self.monitor.connect(CONNECT_TIMEOUT))
        ending = asyncio.create_task(ended(self._child))
        try:
            await asyncio.wait({connecting, ending}, return_when=asyncio.FIRST_COMPLETED)
            if ending.done():
                raise self._failed(ending.result(), self._said(offset))
            await connecting
        finally:
            connecting.cancel()
            ending.cancel()
            await asyncio.gather(connecting, ending, return_exceptions=True)
        await self.session.attach()
        if memory is not None:
            await migration.load(self.monitor, memory)

    def _failed(self, status: int, log: str) -> LaunchFailed:
        message = f"QEMU {_how(status)}" + (f": {log}" if log else "")
        return LaunchFailed(message, log, hint="the log of QEMU: tdxctl td logs NAME --qemu")

    async def adopt(self) -> bool:
        """QEMU dies with its supervisor: there is nothing to take over."""
        raise StateError(f"TD {self._spec.name}", "take it over", "without a supervisor", "a running one")

    async def resume(self) -> None:
        await self.execute("cont")

    async def suspend(self) -> None:
        await self.execute("stop")

    async def power_button(self) -> None:
        await self.execute("system_powerdown")

    async def reset(self) -> None:
        await self.execute("system_reset")

    async def keep(self, path: Path, *, goes_on: bool) -> None:
        await migration.save(self.monitor, path)

    async def execute(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """A QMP command; see ``Monitor.execute``."""
        return await self.monitor.execute(command, arguments)

    async def events(self) -> AsyncIterator[Event]:
        async for event in self.monitor.events():
            yield event

    def saw(self, event: Event) -> None:
        """Remember why the machine is about to end."""
        if event.name == "SHUTDOWN":
            self._shutdown = event

    async def wait_ended(self) -> Ending:
        """Wait until QEMU or a part of the session has ended; the other one is then ended too."""
        child = self._required()
        ending = asyncio.create_task(ended(child))
        failing = asyncio.create_task(self.session.wait_failed())
        try:
            await asyncio.wait({ending, failing}, return_when=asyncio.FIRST_COMPLETED)
            # QEMU's end makes the session's parts lose their peer, perhaps before the process is gone.
            await asyncio.wait({ending}, timeout=PARTING_TIME)
            if not ending.done():
                child.kill()
                await ending
                return Ending(fault=failing.result())
            return await self._judge(ending.result())
        finally:
            failing.cancel()
            ending.cancel()
            await asyncio.gather(failing, ending, return_exceptions=True)

    async def _judge(self, status: int) -> Ending:
        for event in await self.monitor.remaining_events(DRAIN_TIMEOUT):
            self.saw(event)
        if status == 0 and self._shutdown is not None:
            return Ending(reboot=self._shutdown.data.get("reason") in RESETS)
        said = self._said(0)
        return Ending(fault=f"QEMU {_how(status)}" + (f": {said}" if said and status > 0 else ""))

    async def quit(self) -> None:
        """End QEMU: by QMP, and by SIGKILL if it does not listen."""
        child = self._child
        if child is None or child.poll() is not None:
            return
        try:
            await asyncio.wait_for(self.monitor.execute("quit"), QUIT_TIMEOUT)
            await asyncio.wait_for(ended(child), QUIT_TIMEOUT)
        except (MonitorError, TimeoutError):
            child.kill()
            await ended(child)

    async def part(self) -> None:
        await self.quit()

    async def close(self) -> None:
        """End everything of this machine; may be called at any time and more than once."""
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
            await ended(self._child)
        await self.monitor.close()
        await self.session.close()

    def _required(self) -> Child:
        if self._child is None:
            raise StateError(f"TD {self._spec.name}", "wait", "not started", "started")
        return self._child

    def _said(self, offset: int) -> str:
        """What QEMU wrote to its log from ``offset``, without the command lines."""
        data = self._log.read_bytes()[offset:][-LOG_TAIL:].decode(errors="replace")
        lines = [line.partition(": ")[2] or line for line in data.splitlines() if "-nodefaults" not in line]
        return "; ".join(line for line in lines[-3:] if line)


def _how(status: int) -> str:
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended with status {status}"

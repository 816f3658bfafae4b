"""What a supervisor does when asked over its control socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tdxstack.errors import PlatformMissing, SystemFault, TdxStackError, UsageError
from tdxstack.vm import restoring
from tdxstack.vm.control_server import Method
from tdxstack.vm.saved import saved_state, snapshot
from tdxstack.vm.state import State, require

if TYPE_CHECKING:
    from tdxstack.vm.supervisor import Supervisor

Params = Mapping[str, Any]
STOP_TIMEOUT = 60.0
AGENT_TIMEOUT = 60.0
#: Seconds after which the power button is pressed again.
PRESS_INTERVAL = 10.0
UP = frozenset({State.RUNNING, State.PAUSED})


class Requests:
    """The methods, over one supervisor. Each checks the state first, and writes the next one before it answers."""

    def __init__(self, td: Supervisor) -> None:
        self._td = td
        self._changing = asyncio.Lock()

    def methods(self) -> dict[str, Method]:
        """Method names of the control socket."""
        return {
            "status": self._status,
            "stop": self._stop,
            "guest": self._guest,
            "wait_ready": self._wait_ready,
            "registers": self._registers,
            "suspend": self._suspend,
            "resume": self._resume,
            "reset": self._reset,
            "save": self._save,
            "snapshot": self._snapshot,
            "qmp": self._qmp,
        }

    async def _status(self, _: Params) -> dict[str, Any]:
        return {**self._td.record.to_mapping(), "agent_ready": self._td.agent.ready}

    async def _registers(self, _: Params) -> dict[str, str]:
        return self._td.machine.session.registers()

    async def _qmp(self, params: Params) -> Any:
        return await self._td.machine.execute(str(params["execute"]), params.get("arguments"))

    async def _guest(self, params: Params) -> Any:
        timeout = float(params.get("timeout", AGENT_TIMEOUT))
        return await self._td.agent.call(str(params["method"]), params.get("params") or {}, timeout)

    async def _wait_ready(self, params: Params) -> Any:
        waiting = asyncio.create_task(self._td.agent.wait_ready(float(params.get("timeout", AGENT_TIMEOUT))))
        finished = asyncio.create_task(self._td.finished.wait())
        try:
            await asyncio.wait({waiting, finished}, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return waiting.result()
            record = self._td.record
            reason = record.reason or "it has stopped"
            raise SystemFault(
                f"TD {record.name} ended before its guest was ready: {reason}", hint=f"tdxctl td logs {record.name}"
            )
        finally:
            waiting.cancel()
            finished.cancel()
            await asyncio.gather(waiting, finished, return_exceptions=True)

    async def _suspend(self, _: Params) -> dict[str, Any]:
        self._require("suspend", frozenset({State.RUNNING}))
        await self._td.machine.suspend()
        return self._settle(State.PAUSED)

    async def _resume(self, _: Params) -> dict[str, Any]:
        self._require("resume", frozenset({State.PAUSED}))
        await self._td.machine.resume()
        return self._settle(State.RUNNING)

    async def _reset(self, _: Params) -> dict[str, Any]:
        self._require("reset", UP)
        await self._td.machine.reset()
        return self._td.record.to_mapping()

    def _require(self, operation: str, states: frozenset[State]) -> None:
        require(self._td.record.name, operation, self._td.record.state, states)

    def _settle(self, state: State) -> dict[str, Any]:
        """QEMU's event may have moved the state already."""
        if self._td.record.state is not state:
            self._td.move(state)
        return self._td.record.to_mapping()

    async def _save(self, _: Params) -> dict[str, Any]:
        """Take the machine to disk and end it; its next start goes on from there."""
        async with self._changing:
            paused = await self._halt("save")
            record = self._td.record
            try:
                await restoring.take(
                    self._td.machine, record, saved_state(record.name), paused=paused, with_disk=False
                )
            except TdxStackError:
                await self._go_on(paused)
                raise
            self._td.end_state, self._td.closing = State.SAVED, True
            await self._td.machine.quit()
            await self._td.finished.wait()
            return self._td.record.to_mapping()

    async def _snapshot(self, params: Params) -> dict[str, Any]:
        """Take the machine and its disk to a snapshot; it goes on afterwards."""
        target = snapshot(self._td.record.name, str(params["label"]))
        if target.exists():
            raise UsageError(f"snapshot {params['label']!r} exists", hint="delete it, or take another name")
        target.directory.parent.mkdir(mode=0o700, exist_ok=True)
        if not self._td.record.spec.overlay and self._td.record.spec.image is not None:
            raise PlatformMissing("a TD that writes to its image itself has no snapshots", hint="set overlay = true")
        async with self._changing:
            paused = await self._halt("snapshot")
            try:
                await restoring.take(self._td.machine, self._td.record, target, paused=paused, with_disk=True)
            finally:
                await self._go_on(paused)
            return self._td.record.to_mapping()

    async def _halt(self, operation: str) -> bool:
        """Stop the CPUs; whether they were stopped before."""
        self._require(operation, UP)
        restoring.require_savable(self._td.machine.session, self._td.record.spec)
        paused = self._td.record.state is State.PAUSED
        if not paused:
            await self._suspend({})
        return paused

    async def _go_on(self, paused: bool) -> None:
        if not paused:
            await self._resume({})

    async def _stop(self, params: Params) -> dict[str, Any]:
        mode, timeout = str(params.get("mode", "auto")), float(params.get("timeout", STOP_TIMEOUT))
        self._require("stop", UP | {State.STOPPING})
        before = self._td.record.state
        if before is not State.STOPPING:
            self._announce_stop(force=mode == "force")
        try:
            async with asyncio.timeout(None if mode == "force" else timeout):
                pressed = await self._ask_to_stop(mode, paused=before is State.PAUSED)
                await self._until_finished(press=pressed)
        except (TimeoutError, TdxStackError) as error:
            if self._td.finished.is_set():
                return self._td.record.to_mapping()
            self._td.move(State.RUNNING)
            name = self._td.record.name
            why = (
                f"did not stop: {error.message}"
                if isinstance(error, TdxStackError)
                else f"did not power off within {timeout:g} s"
            )
            raise SystemFault(f"TD {name} {why}", hint=f"tdxctl td stop {name} --mode force") from None
        return self._td.record.to_mapping()

    def _announce_stop(self, *, force: bool) -> None:
        """A state that cannot be written does not keep a TD from being ended."""
        try:
            self._td.move(State.STOPPING)
        except SystemFault:
            if not force:
                raise

    async def _until_finished(self, *, press: bool) -> None:
        """Wait for the end. A guest that was not up to the power button yet gets it again."""
        while not self._td.finished.is_set():
            try:
                await asyncio.wait_for(self._td.finished.wait(), PRESS_INTERVAL if press else None)
            except TimeoutError:
                with contextlib.suppress(TdxStackError):
                    await self._td.machine.power_button()

    async def _ask_to_stop(self, mode: str, *, paused: bool) -> bool:
        """Ask in the way that ``mode`` says; whether it was by the power button."""
        machine = self._td.machine
        if mode == "force":
            self._td.closing = True
            await machine.quit()
            return False
        if paused:
            await machine.resume()
        if mode == "agent" or (mode == "auto" and self._td.agent.ready):
            try:
                await self._td.agent.call("shutdown", {}, AGENT_TIMEOUT)
            except TdxStackError:
                if mode == "agent":
                    raise
            else:
                return False
        await machine.power_button()
        return True

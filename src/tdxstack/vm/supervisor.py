"""The supervisor: one process per TD that owns its QEMU, its platform session, its state and its control socket.

``python -m tdxstack.vm.supervisor NAME --lock FD --report FD --before STATE``, started detached by
``vm.lifecycle.start``. It holds the TD's lock as long as it lives; children die with it. What happens on the way up
goes through the report pipe, one JSON document per line: ``{"step": text}``, then ``{"started": record}`` or
``{"failed": error}``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tdxstack.errors import PlatformMissing, ProgramMissing, StateError, SystemFault, TdxStackError, UsageError
from tdxstack.system.files import write_atomic
from tdxstack.vm import advice, allocation, events, keys, plan, restoring, writers
from tdxstack.vm import record as records
from tdxstack.vm.agent import AgentConnection
from tdxstack.vm.control_server import ControlServer
from tdxstack.vm.dialects import Dialect
from tdxstack.vm.drivers import open_machine
from tdxstack.vm.error_document import error_document
from tdxstack.vm.machine import Ending, Event, LaunchFailed, Machine
from tdxstack.vm.qemu.launch import Launch
from tdxstack.vm.record import OVERLAY, Run, TdRecord
from tdxstack.vm.requests import Requests
from tdxstack.vm.saved import Saved, discard_unfinished, saved_state
from tdxstack.vm.session import td_session
from tdxstack.vm.sites import site_of
from tdxstack.vm.state import ACTIVE, STARTABLE, State

PORT_ATTEMPTS = 5
#: Enough for a record and the blocks of a directory.
RESERVE_SIZE = 64 << 10
#: Faults that are told before QEMU is started, whoever finds them.
REFUSALS = (UsageError, PlatformMissing, ProgramMissing, StateError)
HOST_FORWARD_FAULT = "host forwarding rule"


class Supervisor:
    """Brings one TD up, keeps its state true, and takes it down."""

    def __init__(
        self, record: TdRecord, report: Reporter, *, before: State | None = None, adopting: bool = False
    ) -> None:
        self.record = record
        #: Where a start goes back to that is refused.
        self._before = before
        self._launched = False
        self._report = report
        self._machine: Machine | None = None
        self._agent: AgentConnection | None = None
        self._io_fault: str | None = None
        self.finished = asyncio.Event()
        self.closing = False
        self._halted = False
        self._adopting = adopting
        self.end_state = State.STOPPED
        self._control = ControlServer(record.name, record.place.control, Requests(self).methods())

    # -- life ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Live until the TD has ended; the outcome is on disk and in the report."""
        life = asyncio.create_task(self._live())
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._terminate, life)
        loop.add_signal_handler(signal.SIGHUP, lambda: None)
        await life

    def _terminate(self, life: asyncio.Task[None]) -> None:
        if self.record.state is State.STARTING:
            life.cancel()
        elif self._machine is not None:
            self.closing = True
            self._quitting = asyncio.create_task(self._machine.part())

    async def _live(self) -> None:
        try:
            ending = await self._run_machine()
        except asyncio.CancelledError:
            interrupted = SystemFault(f"TD {self.record.name}: the start was interrupted", hint=self._again())
            kept = saved_state(self.record.name).exists()
            await self._end(State.SAVED if kept else State.STOPPED, "the start was interrupted", interrupted)
        except (TdxStackError, OSError) as error:
            fault = error if isinstance(error, TdxStackError) else SystemFault(str(error), hint=self._again())
            fault = advice.advised(writers.explained(self.record, fault))
            await self._end(self._state_after(fault), str(fault), fault)
        else:
            if ending.left:
                await self._leave()
                return
            # A machine that was to end and had to be killed has ended as it was asked to.
            state = State.FAILED if ending.fault and not self.closing else self.end_state
            await self._end(state, ending.fault or ending.reason, SystemFault(ending.fault or "", hint=self._again()))

    def _state_after(self, fault: TdxStackError) -> State:
        """What a fault makes of the TD: one whose start was refused, before or by the machine, never ran."""
        if self.record.state is not State.STARTING or self._before is None:
            return State.FAILED
        refused = not self._launched or isinstance(fault, REFUSALS)
        return self._before if refused else State.FAILED

    def _again(self) -> str:
        return f"tdxctl td start {self.record.name}"

    async def _run_machine(self) -> Ending:
        await (self._adopt() if self._adopting else self._start())
        state = State.PAUSED if self._halted else State.RUNNING
        if self.record.state is not state or self.record.reason:
            self.move(state, run=self.record.run)
        self._report.started(self.record)
        while True:
            ending = await self._watch()
            if not ending.reboot or self.closing or self.record.state is State.STOPPING:
                return ending
            await self._recreate()

    async def _start(self) -> None:
        place = self.record.place
        dialect, run = plan.prepare(self.record)
        shutil.rmtree(place.run_dir, ignore_errors=True)
        discard_unfinished(self.record.name)
        place.make_run_dir()
        write_atomic(place.reserve, bytes(RESERVE_SIZE), mode=0o600)
        place.qemu_log.unlink(missing_ok=True)
        spec = self.record.spec
        site = site_of(spec)
        if run.firmware:
            run = replace(run, firmware_sha256=site.digest(Path(run.firmware)))
        # A guest that goes on from a saved state goes on writing where its boot is told.
        goes_on = saved_state(spec.name).exists()
        site.prepare(spec.name, keys.authorized_keys(spec.ssh_keys), goes_on=goes_on)
        overlay = site.directory(spec.name) / OVERLAY
        if spec.image is not None and spec.overlay and not site.exists(overlay):
            self._report.step(f"overlay over {spec.image.name}")
            site.make_overlay(spec.image, overlay)
        await self._start_with_ports(dialect, replace(run, supervisor_pid=os.getpid()))
        await self._control.open()

    async def _adopt(self) -> None:
        """Take charge of a machine that outlived its last supervisor, or that somebody else started."""
        record = self.record
        dialect, _ = plan.prepare(record)
        run_dir = record.place.make_run_dir()
        session = td_session(record.spec, Path(record.run.firmware) if record.run.firmware else None, run_dir)
        self._machine = machine = open_machine(record, dialect, plan.launch(record, record.run), session)
        self._halted = not await machine.adopt()
        self._agent = AgentConnection(machine.agent_socket)
        await self._agent.open()
        run = replace(record.run, supervisor_pid=os.getpid(), qemu_pid=machine.pid)
        self.record = replace(record, run=run)
        records.save(self.record)
        await self._control.open()

    async def _leave(self) -> None:
        """End without the machine, which another supervisor will take charge of."""
        await self._close_machine()
        self.finished.set()
        await self._control.close()

    async def _start_with_ports(self, dialect: Dialect, run: Run) -> None:
        """Start on allocated ports; if another program takes a chosen one meanwhile, choose again."""
        kept = saved_state(self.record.name)
        saved = kept if kept.exists() else None
        for attempt in range(PORT_ATTEMPTS):
            with allocation.allocating():
                run = plan.allocated(self.record, run)
                self.record = replace(self.record, run=run)
                records.save(self.record)
            reach = f", ssh on port {run.ssh_port}" if run.ssh_port else ""
            self._report.step(f"{dialect.title}, {run.accelerator}{reach}")
            try:
                await self._start_machine(dialect, plan.launch(self.record, run), saved)
            except LaunchFailed as error:
                if HOST_FORWARD_FAULT not in error.log or attempt == PORT_ATTEMPTS - 1:
                    raise
                await self._close_machine()
            else:
                return

    async def _start_machine(self, dialect: Dialect, launch: Launch, saved: Saved | None = None) -> None:
        spec = self.record.spec
        session = td_session(spec, launch.firmware, launch.run_dir)
        self._machine = machine = open_machine(self.record, dialect, launch, session)
        facts = saved.facts() if saved is not None else {}
        if saved is not None:
            restoring.prepare(session, spec, facts)
            self._report.step("taking up the saved state")
        self._launched = True
        await machine.start(saved.memory if saved is not None else None)
        if saved is not None:
            saved.discard()
        self._agent = AgentConnection(machine.agent_socket)
        await self._agent.open()
        self.record = replace(self.record, run=replace(self.record.run, qemu_pid=machine.pid))
        self._halted = spec.debug or bool(facts.get("paused"))
        if not self._halted:
            await machine.resume()

    async def _recreate(self) -> None:
        """The guest asked for a reset: a TD is made anew, with fresh registers, on the same ports and disk."""
        await self._close_machine()
        dialect, _ = plan.prepare(self.record)
        run = self.record.run
        await self._start_machine(dialect, plan.launch(self.record, run))
        run = replace(self.record.run, boots=run.boots + 1)
        self.move(State.PAUSED if self._halted else State.RUNNING, run=run)

    async def _watch(self) -> Ending:
        machine = self.machine
        events = asyncio.create_task(self._follow(machine))
        try:
            return await machine.wait_ended()
        finally:
            events.cancel()
            await asyncio.gather(events, return_exceptions=True)

    async def _close_machine(self) -> None:
        if self._agent is not None:
            await self._agent.close()
        if self._machine is not None:
            await self._machine.close()
        self._agent = self._machine = None

    async def _end(self, state: State, reason: str | None, fault: TdxStackError) -> None:
        """Take everything down, then say so: on disk, to whoever waits, through the report."""
        await self._close_machine()
        try:
            if self.record.state in ACTIVE:
                self.move(state, reason)
        except SystemFault as error:
            print(f"state {state.value} could not be written: {error}", file=sys.stderr)  # noqa: T201 - our log
        self._report.failed(fault)
        self.finished.set()
        await self._control.close()
        shutil.rmtree(self.record.place.run_dir, ignore_errors=True)
        if self.record.spec.transient and state is State.STOPPED:
            with contextlib.suppress(SystemFault):
                site_of(self.record.spec).forget(self.record.name)
            shutil.rmtree(self.record.place.directory, ignore_errors=True)

    def move(self, state: State, reason: str | None = None, *, run: Run | None = None) -> None:
        """Go to another state: on disk first, on a full disk too, if by the space that was kept for it."""
        moved = self.record.moved(state, reason, run=run)
        try:
            records.save(moved)
        except SystemFault:
            self.record.place.reserve.unlink(missing_ok=True)
            records.save(moved)
        self.record = moved
        events.note(self.record.name, "state", {"state": state.value, "reason": reason})

    @property
    def machine(self) -> Machine:
        """The running machine; StateError if there is none."""
        if self._machine is None:
            raise StateError(f"TD {self.record.name}", "reach QEMU", self.record.state.value, "running")
        return self._machine

    @property
    def agent(self) -> AgentConnection:
        """The connection to the guest's agent; StateError if there is no machine."""
        if self._agent is None:
            raise StateError(f"TD {self.record.name}", "reach its agent", self.record.state.value, "running")
        return self._agent

    # -- what QEMU tells ----------------------------------------------------------------------------------------

    async def _follow(self, machine: Machine) -> None:
        async for event in machine.events():
            machine.saw(event)
            if event.name in events.NOTED:
                events.note(self.record.name, event.name, {"data": dict(event.data)})
            with contextlib.suppress(SystemFault, StateError):
                self._take(event)

    def _take(self, event: Event) -> None:
        if event.name == "BLOCK_IO_ERROR":
            full = event.data.get("nospace")
            self._io_fault = "the host's disk is full" if full else f"disk error: {event.data.get('reason')}"
        elif event.name == "STOP" and self.record.state is State.RUNNING:
            self.move(State.PAUSED, self._io_fault)
        elif event.name == "RESUME" and self.record.state is State.PAUSED:
            self._io_fault = None
            self.move(State.RUNNING)
        elif event.name == "RESET" and event.data.get("guest"):
            run = self.record.run
            self.record = replace(self.record, run=replace(run, boots=run.boots + 1))
            records.save(self.record)
        elif event.name == "SOCKETS_BACK" and self._agent is not None:
            self._reopening = asyncio.create_task(self._agent.reopen())
        elif event.name == "VSERPORT_CHANGE" and event.data.get("id") == "agent0":
            self._agent_port(bool(event.data.get("open")))

    def _agent_port(self, is_open: bool) -> None:
        if self._agent is not None and not is_open:
            self._agent.gone()


class Reporter:
    """The pipe to the process that asked for the TD's start; it may be gone."""

    def __init__(self, name: str, descriptor: int) -> None:
        self._name = name
        self._descriptor: int | None = descriptor

    def step(self, text: str) -> None:
        self._write({"step": text})

    def started(self, record: TdRecord) -> None:
        self._write({"started": record.to_mapping()})
        self._close()

    def failed(self, error: TdxStackError) -> None:
        self._write({"failed": error_document(error, self._name)})
        self._close()

    def _write(self, message: Mapping[str, Any]) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.write(self._descriptor, json.dumps(message).encode() + b"\n")

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def main(argv: list[str]) -> int:
    """Entry of the supervisor's process."""
    parser = argparse.ArgumentParser(prog="tdxstack-supervisor")
    parser.add_argument("name")
    parser.add_argument("--lock", type=int, required=True)
    parser.add_argument("--report", type=int, required=True)
    parser.add_argument("--before", type=State, choices=STARTABLE)
    parser.add_argument("--adopt", action="store_true")
    arguments = parser.parse_args(argv)
    for descriptor in (arguments.lock, arguments.report):
        os.set_inheritable(descriptor, False)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    async def live() -> None:
        record, report = records.load(arguments.name), Reporter(arguments.name, arguments.report)
        await Supervisor(record, report, before=arguments.before, adopting=arguments.adopt).run()

    asyncio.run(live())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

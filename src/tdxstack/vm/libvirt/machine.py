"""One libvirt domain with the platform session behind it; see :class:`tdxstack.vm.machine.Machine`.

The software platform's TPM and channel, and a plain machine's TPM, are served by the process that owns this object:
such a domain is "bound" and destroyed by libvirt when that process dies. Every other domain outlives it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from tdxstack.errors import StateError, SystemFault
from tdxstack.platform.base import TdSession
from tdxstack.platform.linux_processes import find_by_arguments
from tdxstack.system.process import kill_process, process_ended
from tdxstack.vm.dialects import Dialect
from tdxstack.vm.libvirt import binding, domains
from tdxstack.vm.libvirt.connection import LibvirtFault, Link
from tdxstack.vm.libvirt.endings import ending_of
from tdxstack.vm.libvirt.far_end import FarEnd
from tdxstack.vm.libvirt.tunnel import Tunnel
from tdxstack.vm.machine import Ending, Event, LaunchFailed
from tdxstack.vm.qemu.launch import Launch, completed
from tdxstack.vm.record import Place
from tdxstack.vm.site import Site, is_far
from tdxstack.vm.spec import TdSpec

#: Seconds that a session may outlive its QEMU, and that libvirtd, if it is there, may take to tell of the end.
PARTING_TIME, TELLING_TIME = 2.0, 15.0
QUIT_TIMEOUT = 15.0
ENDED_UNHEARD = "QEMU ended while libvirt was away"
#: The name of our agent's port in libvirt's machine and in ours.
LIBVIRT_AGENT, OWN_AGENT = "channel0", "agent0"


class LibvirtMachine:
    """Defines, starts, watches and ends one domain; owns its session."""

    def __init__(self, spec: TdSpec, dialect: Dialect, launch: Launch, session: TdSession, site: Site) -> None:
        self._spec = spec
        self._dialect = dialect
        self._launch = launch
        self._site = site
        self._uuid = domains.uuid_of(spec.name)
        self._link = Link(spec.connect, self)
        self._tunnel = self._tunnel_of(launch) if is_far(spec) else None
        self._ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._quitting = False
        self._kept = False
        self._pid = 0
        self.session = session

    @property
    def pid(self) -> int:
        return self._pid

    @property
    def agent_socket(self) -> Path:
        return (
            self._launch.agent if self._tunnel is None else Place(self._spec.name).run_dir / self._launch.agent.name
        )

    def _tunnel_of(self, launch: Launch) -> Tunnel:
        place = Place(self._spec.name)
        wanted = [launch.agent, launch.console, *([launch.gdb] if self._spec.debug else [])]
        sockets = [(place.run_dir / there.name, there) for there in wanted]
        end = FarEnd.of(self._spec.connect)
        return Tunnel(end, sockets, place.qemu_log, lambda: self._events.put_nowait(Event("SOCKETS_BACK", {})))

    # -- up -----------------------------------------------------------------------------------------------------

    async def start(self, memory: Path | None = None) -> None:
        await self.session.start()
        launch = completed(self._launch, self._dialect, self.session)
        try:
            await self._link.open()
            await self._link.call(lambda connection: self._create(connection, launch, memory))
        except LibvirtFault as error:
            what = "" if memory is None else "cannot load the machine's state: "
            raise LaunchFailed(f"{what}{error.message}", error.message, hint=error.hint) from None
        await self._attach()

    async def _attach(self) -> None:
        """Connect to what the machine listens on, and find its process if it is on this machine."""
        if self._tunnel is not None:
            await self._tunnel.open()
        await self.session.attach()
        if domains.is_local(self._spec.connect):
            self._pid = find_by_arguments("-uuid", self._uuid) or 0

    def _create(self, connection: Any, launch: Launch, memory: Path | None) -> None:
        libvirt = binding.load()
        domain = domains.find(connection, self._uuid)
        if domain is not None and domain.isActive():
            raise StateError(
                f"TD {self._spec.name}", "start its domain", "running in libvirt", "one that is shut off",
                hint=f"virsh -c '{self._spec.connect}' destroy {self._spec.name}",
            )  # fmt: skip
        xml = domains.xml_of(connection, self._spec, self._dialect, launch, self._site)
        flags = libvirt.VIR_DOMAIN_START_PAUSED
        if launch.platform_arguments:
            flags |= libvirt.VIR_DOMAIN_START_AUTODESTROY
        if not self._spec.transient:
            domain = domains.define(connection, self._spec, xml)
            domains.refuse_foreign_state(self._spec, domain)
        if memory is not None:
            connection.restoreFlags(str(memory), xml, libvirt.VIR_DOMAIN_SAVE_PAUSED)
        elif domain is not None and not self._spec.transient:
            domain.createWithFlags(flags)
        else:
            connection.createXML(xml, flags)

    async def adopt(self) -> bool:
        await self.session.start()
        await self._link.open()
        state, _ = await self._link.call(lambda connection: domains.state(connection, self._uuid))
        if state not in domains.ALIVE:
            raise SystemFault(
                f"TD {self._spec.name}: its domain does not run", hint=f"tdxctl td show {self._spec.name}"
            )
        await self._attach()
        return state not in domains.HALTED

    # -- what is done to it -------------------------------------------------------------------------------------

    async def resume(self) -> None:
        await self._on_domain(lambda domain: domain.resume())

    async def suspend(self) -> None:
        await self._on_domain(lambda domain: domain.suspend())

    async def power_button(self) -> None:
        mode = binding.load().VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN
        await self._on_domain(lambda domain: domain.shutdownFlags(mode))

    async def reset(self) -> None:
        await self._on_domain(lambda domain: domain.reset(0))

    async def keep(self, path: Path, *, goes_on: bool) -> None:
        libvirt = binding.load()
        if goes_on:
            xml = domains.snapshot_xml(path, disk=self._launch.disk is not None)
            flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
            await self._on_domain(lambda domain: domain.snapshotCreateXML(xml, flags))
            return
        self._kept = True
        try:
            await self._on_domain(lambda domain: domain.saveFlags(str(path), None, libvirt.VIR_DOMAIN_SAVE_PAUSED))
        except BaseException:
            self._kept = False
            raise

    async def execute(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        libvirt_qemu = binding.load("libvirt_qemu")
        request = json.dumps({"execute": command, **({"arguments": arguments} if arguments else {})})
        answer: str = await self._on_domain(lambda domain: libvirt_qemu.qemuMonitorCommand(domain, request, 0))
        values = json.loads(answer)
        if "error" in values:
            raise SystemFault(f"QEMU: {command}: {values['error'].get('desc')}", hint="tdxctl td logs NAME")
        return values.get("return")

    async def _on_domain(self, function: Callable[[Any], Any]) -> Any:
        return await self._link.call(lambda connection: function(domains.require(connection, self._uuid)))

    # -- what is heard of it ------------------------------------------------------------------------------------

    async def events(self) -> AsyncIterator[Event]:
        while (event := await self._events.get()) is not None:
            yield event

    def saw(self, event: Event) -> None:
        """libvirt's lifecycle events tell how it ended."""

    def on_lifecycle(self, uuid: str, event: int, detail: int) -> None:
        libvirt = binding.load()
        if uuid != self._uuid:
            return
        if event == libvirt.VIR_DOMAIN_EVENT_UNDEFINED:
            self._events.put_nowait(Event("UNDEFINED", {"by": "libvirt"}))
        elif event == libvirt.VIR_DOMAIN_EVENT_STOPPED and not self._kept:
            self._end(ending_of(detail, expected=self._quitting))

    def on_monitor(self, uuid: str, name: str, data: str | None) -> None:
        if uuid != self._uuid:
            return
        facts = json.loads(data) if data else {}
        if facts.get("id") == LIBVIRT_AGENT:
            facts["id"] = OWN_AGENT
        self._events.put_nowait(Event(name, facts))

    def on_lost(self) -> None:
        self._events.put_nowait(Event("LIBVIRT_LOST", {"uri": self._spec.connect}))

    async def on_back(self) -> None:
        """libvirtd is there again: what happened meanwhile?"""
        self._events.put_nowait(Event("LIBVIRT_BACK", {"uri": self._spec.connect}))
        try:
            state, reason = await self._link.call(lambda connection: domains.state(connection, self._uuid))
        except LibvirtFault:
            return
        if state not in domains.ALIVE:
            self._end(domains.ending_while_away(state, reason))
        else:
            self._events.put_nowait(Event("STOP" if state in domains.HALTED else "RESUME", {}))

    def _end(self, ending: Ending) -> None:
        if not self._ended.done():
            self._ended.set_result(ending)
            self._events.put_nowait(None)

    async def wait_ended(self) -> Ending:
        failing = asyncio.create_task(self.session.wait_failed())
        dying = asyncio.create_task(process_ended(self._pid))
        try:
            waits: set[asyncio.Future[Any]] = {self._ended, failing, dying}
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            # The end of QEMU is told by libvirt in a moment; it takes the session's parts along.
            if not (self._ended.done() or dying.done()):
                ends: set[asyncio.Future[Any]] = {self._ended, dying}
                await asyncio.wait(ends, timeout=PARTING_TIME, return_when=asyncio.FIRST_COMPLETED)
            patience = TELLING_TIME if self._link.connected else PARTING_TIME
            if dying.done():
                await asyncio.wait({self._ended}, timeout=patience)
            if not self._ended.done():
                fault = (
                    failing.result() if failing.done() and not dying.done() else "QEMU ended while libvirt was away"
                )
                await self.quit()
                return Ending(fault=fault)
            return self._ended.result()
        finally:
            for task in (failing, dying):
                task.cancel()
            await asyncio.gather(failing, dying, return_exceptions=True)

    # -- down ---------------------------------------------------------------------------------------------------

    async def quit(self) -> None:
        self._quitting = True
        if self._kept:
            self._end(Ending())
            return
        try:
            await asyncio.wait_for(self._destroy(), QUIT_TIMEOUT)
        except (LibvirtFault, TimeoutError):
            if not self._pid:
                raise
            # libvirtd is away or hangs; its QEMU is here.
            self._kill()
            self._end(Ending())

    async def _destroy(self) -> None:
        def destroy(connection: Any) -> None:
            domain = domains.find(connection, self._uuid)
            if domain is not None and domain.isActive():
                domain.destroy()

        await self._link.call(destroy)
        self._end(Ending())

    def _kill(self) -> None:
        if pid := find_by_arguments("-uuid", self._uuid):
            kill_process(pid)

    async def part(self) -> None:
        if domains.is_bound(self._spec):
            await self.quit()
        else:
            self._end(Ending(left=True))

    async def close(self) -> None:
        if not self._ended.done():
            try:
                await self.quit()
            except (LibvirtFault, TimeoutError):
                self._end(Ending())
        if self._tunnel is not None:
            await self._tunnel.close()
        await self._link.close()
        await self.session.close()

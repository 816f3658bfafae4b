"""Connections to libvirt: opened, kept alive, opened again when libvirtd comes back; its errors as ours."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from tdxstack.errors import SystemFault
from tdxstack.vm.libvirt import binding
from tdxstack.vm.libvirt.far_end import dialled

T = TypeVar("T")
KEEPALIVE_INTERVAL, KEEPALIVE_COUNT = 5, 4
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0


class LibvirtFault(SystemFault):
    """libvirt refused, or is not there. ``code`` is its ``virErrorNumber``."""

    def __init__(self, message: str, code: int, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code


def call(function: Callable[[], T], uri: str) -> T:
    """``function()``, with libvirt's error as ours.

    Raises:
        LibvirtFault: libvirt's words, and what to do where that can be told.
    """
    libvirt = binding.load()
    try:
        return function()
    except libvirt.libvirtError as error:
        code = int(error.get_error_code() or 0)
        raise LibvirtFault(f"libvirt: {error.get_error_message() or error}", code, hint=_hint(code, uri)) from None


def _hint(code: int, uri: str) -> str:
    libvirt = binding.load()
    gone = (
        libvirt.VIR_ERR_SYSTEM_ERROR,
        libvirt.VIR_ERR_NO_CONNECT,
        libvirt.VIR_ERR_RPC,
        libvirt.VIR_ERR_AUTH_FAILED,
    )
    if code in gone:
        return f"virsh -c '{uri}' version; systemctl start libvirtd (or virtqemud)"
    if code == libvirt.VIR_ERR_OPERATION_FAILED:
        return f"virsh -c '{uri}' list --all"
    return "read libvirt's words above; tdxctl td logs NAME"


def open_connection(uri: str) -> Any:
    """A connection (``virConnect``).

    Raises:
        LibvirtFault: libvirtd or the host does not answer.
        PlatformMissing: the binding is not installed.
    """
    libvirt = binding.load()
    return call(lambda: libvirt.open(dialled(uri)), uri)


_event_loop: list[threading.Thread] = []


def run_event_loop() -> None:
    """Run libvirt's event loop in a thread of its own; before the first connection that wants events."""
    if _event_loop:
        return
    libvirt = binding.load()
    libvirt.virEventRegisterDefaultImpl()

    def turn() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    thread = threading.Thread(target=turn, name="libvirt-events", daemon=True)
    thread.start()
    _event_loop.append(thread)


class Listener(Protocol):
    """Who is told what happens on a connection; all of it in the event loop of asyncio."""

    def on_lifecycle(self, uuid: str, event: int, detail: int) -> None: ...

    def on_monitor(self, uuid: str, name: str, data: str | None) -> None: ...

    def on_lost(self) -> None: ...

    async def on_back(self) -> None: ...


class Link:
    """One connection with events for ``listener``, opened anew as often as libvirtd goes away."""

    def __init__(self, uri: str, listener: Listener) -> None:
        self.uri = uri
        self._listener = listener
        self._connection: Any = None
        self._loop = asyncio.get_running_loop()
        self._returning: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def connected(self) -> bool:
        return self._connection is not None

    async def open(self) -> None:
        """Connect and register for events.

        Raises:
            LibvirtFault: it does not answer.
        """
        run_event_loop()
        self._connection = await asyncio.to_thread(self._connect)

    async def call(self, function: Callable[[Any], T]) -> T:
        """``function(connection)`` in a thread of its own.

        Raises:
            LibvirtFault: libvirt refused, or is away.
        """
        connection = self._connection
        if connection is None:
            raise LibvirtFault(
                f"libvirt at {self.uri} does not answer",
                0,
                hint=f"virsh -c '{self.uri}' version; systemctl start libvirtd (or virtqemud)",
            )
        return await asyncio.to_thread(call, lambda: function(connection), self.uri)

    async def close(self) -> None:
        """Let go of the connection; may be called more than once."""
        self._closed = True
        if self._returning is not None:
            self._returning.cancel()
            await asyncio.gather(self._returning, return_exceptions=True)
        connection, self._connection = self._connection, None
        if connection is not None:
            await asyncio.to_thread(_close, connection)

    def _connect(self) -> Any:
        libvirt, libvirt_qemu = binding.load(), binding.load("libvirt_qemu")
        connection = open_connection(self.uri)
        try:
            call(lambda: self._register(libvirt, libvirt_qemu, connection), self.uri)
        except BaseException:
            _close(connection)
            raise
        return connection

    def _register(self, libvirt: Any, libvirt_qemu: Any, connection: Any) -> None:
        def tell(function: Callable[..., None], *facts: Any) -> None:
            # The loop may have ended since.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(function, *facts)

        connection.setKeepAlive(KEEPALIVE_INTERVAL, KEEPALIVE_COUNT)
        connection.registerCloseCallback(lambda *_: tell(self._lost, connection), None)

        def lifecycle(_c: Any, domain: Any, event: int, detail: int, _o: Any) -> None:
            tell(self._listener.on_lifecycle, domain.UUIDString(), event, detail)

        def monitor(_c: Any, domain: Any, name: str, _s: int, _us: int, data: str | None, _o: Any) -> None:
            tell(self._listener.on_monitor, domain.UUIDString(), name, data)

        connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle, None)
        libvirt_qemu.qemuMonitorEventRegister(connection, None, None, monitor, None, 0)

    def _lost(self, connection: Any) -> None:
        if self._closed or connection is not self._connection:
            return
        self._connection = None
        self._listener.on_lost()
        self._returning = asyncio.create_task(self._return())

    async def _return(self) -> None:
        pause = FIRST_PAUSE
        while not self.connected:
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            try:
                self._connection = await asyncio.to_thread(self._connect)
            except SystemFault:
                continue
        await self._listener.on_back()


def _close(connection: Any) -> None:
    libvirt = binding.load()
    try:
        connection.unregisterCloseCallback()
        connection.close()
    except libvirt.libvirtError:
        return

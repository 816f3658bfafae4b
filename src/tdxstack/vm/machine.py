"""A machine that carries a TD, whichever way it is driven: what QEMU's and libvirt's back ends both satisfy.

Order of calls: ``start`` or ``adopt``, (``resume``), ..., ``close``. All coroutines run in one event loop.
``vm.drivers`` opens the back end that the specification's ``via`` names.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tdxstack.errors import SystemFault
from tdxstack.platform.base import TdSession


@dataclass(frozen=True, slots=True)
class Event:
    """An event of QEMU's, e.g. ``SHUTDOWN`` with ``{"guest": true, "reason": "guest-shutdown"}``."""

    name: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Ending:
    """How a machine ended. ``reboot``: the guest asked for a reset; ``fault`` is None for an orderly end, which may
    have a ``reason`` all the same: somebody else ended it. ``left``: it goes on without us.
    """

    fault: str | None = None
    reboot: bool = False
    reason: str | None = None
    left: bool = False


class LaunchFailed(SystemFault):
    """The machine ended, or was refused, before it ran. ``log`` is what was said."""

    def __init__(self, message: str, log: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.log = log


class Machine(Protocol):
    """One machine with the platform session behind it, from its start to its end."""

    @property
    def session(self) -> TdSession: ...

    @property
    def pid(self) -> int:
        """Process id of its QEMU; 0 where it is not known (another host)."""
        ...

    @property
    def agent_socket(self) -> Path:
        """Unix socket of the guest agent's port, once the machine is up."""
        ...

    async def start(self, memory: Path | None = None) -> None:
        """Bring up session and machine; the guest's CPUs do not run yet. ``memory``: go on from what ``keep`` wrote.

        Raises:
            LaunchFailed: QEMU or libvirt did not accept its settings, its files or its ports.
            SystemFault: the memory does not fit this machine.
        """
        ...

    async def adopt(self) -> bool:
        """Take charge of a machine that runs already; whether its CPUs run.

        Raises:
            SystemFault: it does not run, or cannot be taken over.
        """
        ...

    async def resume(self) -> None:
        """Let the CPUs run."""
        ...

    async def suspend(self) -> None:
        """Halt the CPUs."""
        ...

    async def power_button(self) -> None:
        """Press the power button."""
        ...

    async def reset(self) -> None:
        """Press the reset button."""
        ...

    async def keep(self, path: Path, *, goes_on: bool) -> None:
        """Write memory and devices of the halted machine to ``path``; unless it ``goes_on``, only ``quit`` follows.

        Raises:
            SystemFault: e.g. for want of space; the machine is as before.
        """
        ...

    async def execute(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """A QMP command, for what there is no method for."""
        ...

    def events(self) -> AsyncIterator[Event]:
        """What happens to the machine, until it ends."""
        ...

    def saw(self, event: Event) -> None:
        """Remember why the machine is about to end."""
        ...

    async def wait_ended(self) -> Ending:
        """Wait until the machine or a part of the session has ended; the other one is then ended too."""
        ...

    async def quit(self) -> None:
        """End the machine at once."""
        ...

    async def part(self) -> None:
        """Our process has to end: end the machine, or let it go on (``Ending.left``) if it can."""
        ...

    async def close(self) -> None:
        """End everything of this machine; may be called at any time and more than once."""
        ...

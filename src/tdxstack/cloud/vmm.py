"""Virtual machine monitors: what runs a machine. QEMU under a supervisor of ours, or libvirt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from tdxstack.cloud.virtxml import VirtXml
from tdxstack.cloud.vmparam import (
    SHUTDOWN_ACPI,
    SHUTDOWN_AGENT,
    SHUTDOWN_DEFAULT,
    VM_STATE_PAUSE,
    VM_STATE_RUNNING,
    VM_STATE_SHUTDOWN,
    VM_STATE_SHUTDOWN_IN_PROGRESS,
)
from tdxstack.errors import UsageError
from tdxstack.vm import changes, lifecycle
from tdxstack.vm.record import Place, TdRecord
from tdxstack.vm.spec import TdSpec, Via
from tdxstack.vm.spec_rules import checked
from tdxstack.vm.state import State

SHUTDOWN_MODES = (SHUTDOWN_DEFAULT, SHUTDOWN_ACPI, SHUTDOWN_AGENT)
SHUTDOWN_TIMEOUT = 120.0
#: The states of ``vm.state`` in the words of the original.
STATES: dict[State, str] = {
    State.DEFINED: VM_STATE_SHUTDOWN,
    State.STARTING: VM_STATE_RUNNING,
    State.RUNNING: VM_STATE_RUNNING,
    State.PAUSED: VM_STATE_PAUSE,
    State.STOPPING: VM_STATE_SHUTDOWN_IN_PROGRESS,
    State.STOPPED: VM_STATE_SHUTDOWN,
    State.SAVED: VM_STATE_SHUTDOWN,
    State.FAILED: VM_STATE_SHUTDOWN,
}


class VMMBase(Protocol):
    """Runs one machine. Every method returns when what it says is done, or raises a ``TdxStackError``."""

    #: Where the machine's disk is, before and after ``create``.
    disk: Path

    def create(self) -> None:
        """Define the machine."""

    def start(self) -> None:
        """Start it; its guest boots then."""

    def suspend(self) -> None:
        """Halt its CPUs."""

    def resume(self) -> None:
        """Let its CPUs run again."""

    def shutdown(self, mode: str = SHUTDOWN_DEFAULT) -> None:
        """Have its guest power off: by the power button, or by the agent in the guest."""

    def reboot(self, mode: str = SHUTDOWN_DEFAULT) -> None:
        """Have its guest reboot."""

    def destroy(self) -> None:
        """End it at once; one that does not run is left as it is."""

    def delete(self) -> None:
        """End it and forget it with its disk."""

    def state(self) -> str:
        """One of the ``VM_STATE_`` constants."""
        ...

    def update(self, values: Mapping[str, Any]) -> None:
        """Change settings of the machine, which must be off."""

    def record(self) -> TdRecord:
        """What is known of it: ports, addresses, the specification."""
        ...


class _Supervised:
    """A machine whose supervisor is ours, whatever drives its QEMU."""

    def __init__(self, spec: TdSpec) -> None:
        self._spec = spec
        self.name = spec.name
        self.disk = Place(spec.name).overlay

    def create(self) -> None:
        lifecycle.create(self._spec)

    def start(self) -> None:
        lifecycle.start(self.name)

    def suspend(self) -> None:
        lifecycle.suspend(self.name)

    def resume(self) -> None:
        lifecycle.resume(self.name)

    def shutdown(self, mode: str = SHUTDOWN_DEFAULT) -> None:
        lifecycle.stop(self.name, _mode(mode), timeout=SHUTDOWN_TIMEOUT)

    def reboot(self, mode: str = SHUTDOWN_DEFAULT) -> None:
        changes.reboot(self.name, _mode(mode), timeout=SHUTDOWN_TIMEOUT)

    def destroy(self) -> None:
        if self.state() != VM_STATE_SHUTDOWN:
            lifecycle.stop(self.name, "force")

    def delete(self) -> None:
        if Place(self.name).directory.exists():
            lifecycle.delete(self.name, force=True)

    def state(self) -> str:
        return STATES[self.record().state]

    def update(self, values: Mapping[str, Any]) -> None:
        if Place(self.name).record.exists():
            changes.change(self.name, values)
            return
        merged = {**self._spec.to_mapping(), **values}
        self._spec = checked(TdSpec.from_mapping({key: value for key, value in merged.items() if value is not None}))

    def record(self) -> TdRecord:
        return lifecycle.status(self.name)


class VMMQemu(_Supervised):
    """A machine under QEMU, controlled by its monitor protocol (QMP)."""

    def __init__(self, spec: TdSpec) -> None:
        super().__init__(replace(spec, via=Via.QEMU))


class VMMLibvirt(_Supervised):
    """A machine under libvirt. Its domain's XML is ``virtxml``.

    Args:
        spec: the machine.
        connect: libvirt's URI, e.g. ``qemu:///system`` or ``qemu+ssh://host/system``; None takes the spec's.

    Raises:
        PlatformMissing: later, at ``create``: no libvirt, or something it has no word for.
    """

    def __init__(self, spec: TdSpec, connect: str | None = None) -> None:
        super().__init__(replace(spec, via=Via.LIBVIRT, connect=connect or spec.connect))

    @property
    def virtxml(self) -> VirtXml:
        """The domain as libvirt is told of it."""
        return VirtXml.from_record(self.record())

    def qemu_agent_shutdown(self) -> None:
        """Have the guest's agent power off."""
        self.shutdown(SHUTDOWN_AGENT)

    def qemu_agent_reboot(self) -> None:
        """Have the guest's agent reboot."""
        self.reboot(SHUTDOWN_AGENT)


def _mode(mode: str) -> str:
    if mode not in SHUTDOWN_MODES:
        raise UsageError(f"{mode!r} is no way to shut down", hint=f"one of {', '.join(SHUTDOWN_MODES)}")
    return "auto" if mode == SHUTDOWN_DEFAULT else mode

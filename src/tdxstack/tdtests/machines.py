"""Machines that tests share: each kind boots once, and goes back to how it was then before the next test."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from tdxstack.cloud.guest_options import GuestOptions
from tdxstack.cloud.vmguest import VMGuest, VMGuestFactory
from tdxstack.cloud.vmparam import VM_STATE_RUNNING, VM_STATE_SHUTDOWN, VM_TYPE_LEGACY, VM_TYPE_TD
from tdxstack.errors import TdxStackError
from tdxstack.tdtests.environment import Environment
from tdxstack.vm import changes, lifecycle, waiting

BOOTED = "booted"
READY_TIMEOUT = 900.0
RESTORE_TIMEOUT = 120.0


@dataclass
class _Shared:
    """A shared machine. ``clean`` while it is as it was when it had booted."""

    guest: VMGuest
    restorable: bool
    clean: bool = True


class Machines:
    """The pool of one run. Its machines are of the environment's size, with a vsock device nowhere.

    Args:
        keep: leave machines that a failed test has used, or that did not boot.
    """

    def __init__(self, environment: Environment, *, keep: bool = False) -> None:
        self._environment = environment
        self._keep = keep
        self._factory: VMGuestFactory | None = None
        self._shared: dict[str, _Shared] = {}
        self.kept: list[str] = []

    def factory(self) -> VMGuestFactory:
        """A factory over the run's image; its caller removes what it makes."""
        disk, kernel, initrd, cmdline = self._environment.image
        return VMGuestFactory(disk, kernel, initrd=initrd, cmdline=cmdline)

    def booted(self, vmtype: str) -> VMGuest:
        """A machine of that type that has booted and is as it was then: running, its sshd and its agent answer."""
        shared = self._shared.get(vmtype)
        if shared is not None and not shared.clean:
            shared = self._restored(vmtype, shared)
        if shared is None:
            shared = self._shared[vmtype] = self._boot(vmtype)
        return shared.guest

    def used(self, guest: VMGuest, *, failed: bool = False) -> None:
        """Tell that a test has changed a shared machine; with ``keep`` one that failed is never touched again."""
        for vmtype, shared in list(self._shared.items()):
            if shared.guest is not guest:
                continue
            shared.clean = False
            if failed and self._keep:
                self.kept.append(guest.name)
                del self._shared[vmtype]

    def still_clean(self, guest: VMGuest) -> bool:
        """Whether a machine that a test only looked at runs on."""
        with contextlib.suppress(TdxStackError):
            return guest.state == VM_STATE_RUNNING
        return False

    def close(self) -> None:
        """Remove every machine that is not kept."""
        for shared in self._shared.values():
            with contextlib.suppress(TdxStackError):
                shared.guest.destroy(delete=True)
        self._shared.clear()

    def _boot(self, vmtype: str) -> _Shared:
        if self._factory is None:
            self._factory = self.factory()
        guest = self._factory.new_vm(vmtype, self._environment.size, **self._options(vmtype))
        try:
            guest.create()
            guest.start()
            lifecycle.wait_ready(guest.name, READY_TIMEOUT)
            guest.wait_for_ssh_ready()
            # sshd answers before the rest is up, and the rest would be started anew after every restore.
            guest.ssh_run("systemctl is-system-running --wait", timeout=READY_TIMEOUT)
            restorable = not (vmtype == VM_TYPE_TD and self._environment.hardware)
            if restorable:
                changes.snapshot_create(guest.name, BOOTED)
        except BaseException as error:
            if self._keep and isinstance(error, Exception):
                self.kept.append(guest.name)
                raise
            with contextlib.suppress(TdxStackError):
                guest.destroy(delete=True)
            raise
        return _Shared(guest, restorable)

    def _restored(self, vmtype: str, shared: _Shared) -> _Shared | None:
        """The machine as it had booted; None if it has to be made anew."""
        guest = shared.guest
        try:
            if not shared.restorable:
                raise _NotRestorable(vmtype)
            if guest.state != VM_STATE_SHUTDOWN:
                guest.destroy()
            changes.snapshot_revert(guest.name, BOOTED)
            guest.start()
            waiting.wait_for(guest.name, "ssh", RESTORE_TIMEOUT)
            lifecycle.wait_ready(guest.name, RESTORE_TIMEOUT)
        except (TdxStackError, _NotRestorable):
            with contextlib.suppress(TdxStackError):
                guest.destroy(delete=True)
            del self._shared[vmtype]
            return None
        shared.clean = True
        return shared

    def _options(self, vmtype: str) -> GuestOptions:
        options = GuestOptions()
        if vmtype == VM_TYPE_TD:
            options["platform"] = self._environment.platform_name
        if vmtype != VM_TYPE_LEGACY:
            options["firmware"] = self._environment.firmware
        return options


class _NotRestorable(Exception):
    """A machine whose state cannot be taken up again."""


MachineMaker = Callable[[str], VMGuest]

"""Guests: made by a factory from one mother image, each on an overlay of its own."""

from __future__ import annotations

import contextlib
import getpass
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from tdxstack.cloud.cmdrunner import DEFAULT_TIMEOUT, CMDRunner, NativeCmdRunner, SSHCmdRunner
from tdxstack.cloud.guest_options import BootFiles, GuestOptions, boot_files, guest_spec
from tdxstack.cloud.vmimg import VMImage
from tdxstack.cloud.vmm import VMMBase, VMMQemu
from tdxstack.cloud.vmparam import (
    BOOT_TIMEOUT,
    SHUTDOWN_DEFAULT,
    STATE_TIMEOUT,
    KernelCmdline,
    VMSpec,
)
from tdxstack.errors import StateError, TdxStackError, UsageError
from tdxstack.vm import copying, keys, waiting
from tdxstack.vm.spec import TdSpec

LOG = logging.getLogger(__name__)
POLL_INTERVAL = 0.2
#: An emulated CPU takes this much longer to boot.
EMULATION_FACTOR = 5
VMMFactory = Callable[[TdSpec], VMMBase]


class VMGuest:
    """One machine with its image. ``create`` defines it, ``start`` runs it; the image can be changed before."""

    def __init__(self, spec: TdSpec, mother_image: VMImage, vmm_class: VMMFactory = VMMQemu) -> None:
        self.name = spec.name
        self.vmtype = spec.type.value
        self.vmm = vmm_class(spec)
        self.image = mother_image.clone(self.vmm.disk)

    def create(self) -> None:
        """Define the machine."""
        self.vmm.create()

    def start(self) -> None:
        """Start it; returns when the machine runs."""
        self.vmm.start()

    def suspend(self) -> None:
        """Halt its CPUs."""
        self.vmm.suspend()

    def resume(self) -> None:
        """Let its CPUs run again."""
        self.vmm.resume()

    def shutdown(self, mode: str = SHUTDOWN_DEFAULT) -> None:
        """Have the guest power off; ``mode`` is ``default``, ``acpi`` (power button) or ``agent``."""
        self.vmm.shutdown(mode)

    def reboot(self, mode: str = SHUTDOWN_DEFAULT) -> None:
        """Have the guest reboot."""
        self.vmm.reboot(mode)

    def destroy(self, *, delete: bool = False) -> None:
        """End the machine at once; with ``delete`` forget it with its disk."""
        if delete:
            self.vmm.delete()
        else:
            self.vmm.destroy()

    @property
    def state(self) -> str:
        """One of the ``VM_STATE_`` constants."""
        return self.vmm.state()

    def wait_for_state(self, state: str, timeout: float = STATE_TIMEOUT) -> bool:
        """Whether the machine comes into ``state`` within ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while self.state != state:
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_INTERVAL)
        return True

    def wait_for_ssh_ready(self, timeout: float | None = None) -> bool:
        """Wait until the guest's sshd answers: True.

        Args:
            timeout: seconds; None takes ``BOOT_TIMEOUT``, or five times that where the CPU is emulated.

        Raises:
            SystemFault: it did not in time, or the machine ended before.
        """
        seconds = timeout
        if seconds is None:
            seconds = BOOT_TIMEOUT * (EMULATION_FACTOR if self.vmm.record().run.accelerator != "kvm" else 1)
        waiting.wait_for(self.name, "ssh", seconds)
        return True

    def ssh_run(
        self,
        cmdarr: Sequence[str] | str,
        ssh_id_key: str | Path | None = None,
        *,
        no_wait: bool = False,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> CMDRunner:
        """Run a command as root in the guest; its words are joined by spaces for the guest's shell.

        Args:
            ssh_id_key: private key to log in with; None takes this home's own.
            no_wait: return while it runs.
        """
        record = self.vmm.record()
        runner = SSHCmdRunner(
            cmdarr,
            keys.HOST,
            port=keys.ssh_port(record),
            user=keys.USER,
            options=keys.ssh_options(record, _path(ssh_id_key)),
            timeout=timeout,
        )
        return runner.runnowait() if no_wait else runner.runwait()

    def scp_in(self, local: str | Path, guest: str, ssh_id_key: str | Path | None = None) -> CMDRunner:
        """Copy a file or directory of this machine into the running guest."""
        return self._scp([str(local), f"{keys.USER}@{keys.HOST}:{guest}"], ssh_id_key)

    def scp_out(self, guest: str, local: str | Path, ssh_id_key: str | Path | None = None) -> CMDRunner:
        """Copy a file or directory of the running guest to this machine.

        Raises:
            UsageError: a file that the guest's kernel makes while it is read: scp would not find its end.
        """
        if copying.in_kernel(guest):
            raise UsageError(f"{guest} is made by the kernel while it is read", hint=f'ssh_run(["cat", "{guest}"])')
        return self._scp([f"{keys.USER}@{keys.HOST}:{guest}", str(local)], ssh_id_key)

    def _scp(self, places: list[str], identity: str | Path | None) -> CMDRunner:
        record = self.vmm.record()
        options = [*keys.ssh_options(record, _path(identity)), "-P", str(keys.ssh_port(record))]
        return NativeCmdRunner(["scp", "-q", "-B", "-r", *options, "--", *places]).runwait()

    def get_ip(self) -> str:
        """The address at which this host reaches the guest; its sshd is at ``ssh_forward_port`` there."""
        return keys.HOST

    @property
    def ssh_forward_port(self) -> int:
        """The port of ``get_ip()`` that reaches the guest's sshd."""
        return keys.ssh_port(self.vmm.record())

    def update_kernel_cmdline(self, cmdline: KernelCmdline | str) -> None:
        """Change the kernel command line of a machine that is off."""
        self.vmm.update({"cmdline": str(cmdline)})

    def update_kernel(self, kernel: str | Path, initrd: str | Path | None = None) -> None:
        """Change the kernel of a machine that is off; its initrd too, where one is given."""
        values = {"kernel": str(kernel), **({"initrd": str(initrd)} if initrd is not None else {})}
        self.vmm.update(values)

    def update_vmspec(self, vmspec: VMSpec) -> None:
        """Change the size of a machine that is off."""
        self.vmm.update(vmspec.settings())


class VMGuestFactory:
    """Makes guests on overlays of one mother image, and removes them.

    As a context manager it removes what it made at the end; with ``set_keep_issue_vm(True)`` it keeps the guests of a
    block that ended with an error.

    Args:
        vm_mother_image: a disk image, or the name of a built one (``tdxctl image list``).
        vm_kernel: the kernel of a direct boot; None takes the one of a built image.
        initrd, cmdline: likewise; without a built image there is no initrd, and the command line is
            ``DEFAULT_CMDLINE`` with ``root=part``.
        part: the root partition as the guest names it.
        vmm_class: what runs the guests, unless ``new_vm`` says otherwise.
    """

    def __init__(
        self,
        vm_mother_image: str | Path | VMImage,
        vm_kernel: str | Path | None = None,
        part: str | None = None,
        *,
        initrd: str | Path | None = None,
        cmdline: KernelCmdline | str | None = None,
        vmm_class: VMMFactory = VMMQemu,
    ) -> None:
        source = vm_mother_image.filepath if isinstance(vm_mother_image, VMImage) else vm_mother_image
        self._boot: BootFiles = boot_files(source, vm_kernel, initrd, cmdline, part)
        self.mother_image = vm_mother_image if isinstance(vm_mother_image, VMImage) else VMImage(self._boot.image)
        self._vmm_class = vmm_class
        self._guests: dict[str, VMGuest] = {}
        self._keep_issue_vm = False

    @property
    def vms(self) -> tuple[VMGuest, ...]:
        """The guests that were made and not removed."""
        return tuple(self._guests.values())

    def new_vm(
        self,
        vmtype: str,
        vmspec: VMSpec | None = None,
        *,
        auto_start: bool = False,
        vmm_class: VMMFactory | None = None,
        **options: Unpack[GuestOptions],
    ) -> VMGuest:
        """A guest of type ``td``, ``efi`` or ``legacy``; with ``auto_start`` it is created and started.

        Raises:
            UsageError: settings that make no sense.
            PlatformMissing: something that this machine cannot do.
        """
        name = options.pop("name", None) or _name(vmtype)
        spec = guest_spec(name, vmtype, vmspec or VMSpec.model_base(), self._boot, options)
        guest = VMGuest(spec, self.mother_image, vmm_class or self._vmm_class)
        self._guests[name] = guest
        LOG.info("new guest %s: %d vCPUs, %d MiB", name, spec.vcpus, spec.memory >> 20)
        if auto_start:
            guest.create()
            guest.start()
        return guest

    def set_keep_issue_vm(self, keep: bool) -> None:
        """Whether the guests of a block that ended with an error stay."""
        self._keep_issue_vm = keep

    def remove(self, guest: VMGuest) -> None:
        """End a guest and forget it with its disk."""
        if self._guests.get(guest.name) is not guest:
            raise StateError(f"guest {guest.name}", "remove", "not of this factory", "one that new_vm made")
        guest.destroy(delete=True)
        del self._guests[guest.name]

    def removeall(self) -> None:
        """Remove every guest; the first fault is raised once all have been tried."""
        fault: TdxStackError | None = None
        for guest in self.vms:
            try:
                self.remove(guest)
            except TdxStackError as error:
                fault = fault or error
        if fault is not None:
            raise fault

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self._keep_issue_vm:
            LOG.info("kept: %s", ", ".join(self._guests))
            return
        if kind is None:
            self.removeall()
            return
        with contextlib.suppress(TdxStackError):
            self.removeall()


def _name(vmtype: str) -> str:
    user = "".join(letter for letter in getpass.getuser() if letter.isalnum())[:10] or "user"
    return f"{vmtype}-{user}-{time.strftime('%H%M%S')}-{secrets.token_hex(3)}"


def _path(text: str | Path | None) -> Path | None:
    return None if text is None else Path(text)

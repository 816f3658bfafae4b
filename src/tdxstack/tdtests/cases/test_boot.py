"""Boots of TDs: of several sizes, with an early console, and without what a TD needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tdxstack.cloud.vmguest import VMGuest, VMGuestFactory
from tdxstack.cloud.vmparam import VM_STATE_SHUTDOWN, VM_TYPE_TD, VMSpec
from tdxstack.errors import TdxStackError
from tdxstack.tdtests.environment import KIB_PER_GIB, Environment
from tdxstack.tdtests.guest_shell import answer

pytestmark = pytest.mark.category("boot")
#: canonical/tdx boots the first size ten times and the second five times.
SIZES = {"4vcpus_1socket": (1, 4, 10), "4vcpus_2sockets": (2, 2, 5)}


def test_guest_boot(td: VMGuest) -> None:
    assert answer(td, "systemctl is-system-running --wait || systemctl --failed --no-legend") == "running"


def test_early_printk(td: VMGuest) -> None:
    """The kernel's first words reach the console."""
    console = td.vmm.record().place.console_log.read_text(errors="replace")
    assert "Linux version" in console or "EFI stub" in console


@pytest.mark.parametrize("shape", SIZES)
def test_boot_again_and_again(env: Environment, vm_factory: VMGuestFactory, shape: str) -> None:
    sockets, cores, times = SIZES[shape]
    size = VMSpec(sockets=sockets, cores=cores, memsize=KIB_PER_GIB)
    guest = vm_factory.new_vm(VM_TYPE_TD, size, platform=env.platform_name)
    guest.create()
    for _ in range(env.count(times, 1)):
        guest.start()
        guest.wait_for_ssh_ready()
        assert int(answer(guest, "nproc")) == 4
        guest.destroy()
        assert guest.wait_for_state(VM_STATE_SHUTDOWN)


def test_create_td_without_firmware(env: Environment, vm_factory: VMGuestFactory, tmp_path: Path) -> None:
    """A file that is no TDVF is refused before a machine runs."""
    firmware = tmp_path / "OVMF.fd"
    firmware.write_bytes(bytes(4 << 20))
    guest = vm_factory.new_vm(VM_TYPE_TD, env.size, firmware=firmware, platform=env.platform_name)
    guest.create()
    with pytest.raises(TdxStackError, match=r"TDVF|TDX"):
        guest.start()
    assert guest.state == VM_STATE_SHUTDOWN

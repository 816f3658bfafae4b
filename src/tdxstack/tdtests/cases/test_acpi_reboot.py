"""A reboot that the guest starts itself."""

from __future__ import annotations

import pytest

from tdxstack.cloud.vmparam import VM_STATE_RUNNING, VM_TYPE_LEGACY, VM_TYPES
from tdxstack.tdtests.guest_shell import boot_id, wait_for_new_boot
from tdxstack.tdtests.machines import MachineMaker

pytestmark = pytest.mark.category("lifecycle")


@pytest.mark.parametrize("vmtype", VM_TYPES)
def test_acpi_reboot(fresh: MachineMaker, vmtype: str) -> None:
    guest = fresh(vmtype)
    before, boots = boot_id(guest), guest.vmm.record().run.boots
    guest.ssh_run("systemctl --no-block reboot")
    wait_for_new_boot(guest, before)
    assert guest.state == VM_STATE_RUNNING
    # SeaBIOS resets the machine once more when it finds that it was reset while warm.
    assert guest.vmm.record().run.boots in ((boots + 1, boots + 2) if vmtype == VM_TYPE_LEGACY else (boots + 1,))

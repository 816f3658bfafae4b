"""A reboot by the agent in the guest."""

from __future__ import annotations

import pytest

from tdxstack.cloud.vmparam import SHUTDOWN_AGENT, VM_TYPES
from tdxstack.tdtests.guest_shell import boot_id, wait_for_new_boot
from tdxstack.tdtests.machines import MachineMaker

pytestmark = pytest.mark.category("lifecycle")


@pytest.mark.parametrize("vmtype", VM_TYPES)
def test_vm_reboot_qga(fresh: MachineMaker, vmtype: str) -> None:
    guest = fresh(vmtype)
    before = boot_id(guest)
    guest.reboot(SHUTDOWN_AGENT)
    wait_for_new_boot(guest, before)

"""A power-off that the guest starts itself."""

from __future__ import annotations

import pytest

from tdxstack.cloud.vmparam import VM_STATE_SHUTDOWN, VM_TYPES
from tdxstack.tdtests.guest_shell import POWER_OFF_TIMEOUT
from tdxstack.tdtests.machines import MachineMaker

pytestmark = pytest.mark.category("lifecycle")


@pytest.mark.parametrize("vmtype", VM_TYPES)
def test_acpi_shutdown(fresh: MachineMaker, vmtype: str) -> None:
    guest = fresh(vmtype)
    guest.ssh_run("systemctl --no-block poweroff")
    assert guest.wait_for_state(VM_STATE_SHUTDOWN, POWER_OFF_TIMEOUT)
    assert guest.vmm.record().reason is None

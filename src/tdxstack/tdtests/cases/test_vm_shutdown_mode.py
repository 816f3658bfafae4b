"""Every way to shut a machine down, for every type of machine."""

from __future__ import annotations

import pytest

from tdxstack.cloud.vmm import SHUTDOWN_MODES
from tdxstack.cloud.vmparam import VM_STATE_SHUTDOWN, VM_TYPES
from tdxstack.tdtests.machines import MachineMaker

pytestmark = pytest.mark.category("lifecycle")


@pytest.mark.parametrize("mode", SHUTDOWN_MODES)
@pytest.mark.parametrize("vmtype", VM_TYPES)
def test_vm_shutdown_mode(fresh: MachineMaker, vmtype: str, mode: str) -> None:
    guest = fresh(vmtype)
    guest.shutdown(mode)
    assert guest.wait_for_state(VM_STATE_SHUTDOWN)
    assert guest.vmm.record().reason is None

"""A power-off by the agent in the guest."""

from __future__ import annotations

import pytest

from tdxstack.cloud.vmparam import SHUTDOWN_AGENT, VM_STATE_SHUTDOWN, VM_TYPES
from tdxstack.tdtests.machines import MachineMaker
from tdxstack.vm import events

pytestmark = pytest.mark.category("lifecycle")


@pytest.mark.parametrize("vmtype", VM_TYPES)
def test_vm_shutdown_qga(fresh: MachineMaker, vmtype: str) -> None:
    guest = fresh(vmtype)
    guest.shutdown(SHUTDOWN_AGENT)
    assert guest.wait_for_state(VM_STATE_SHUTDOWN)
    assert "guest-shutdown" in events.path(guest.name).read_text().splitlines()[-2]

"""A TD beside machines without TDX."""

from __future__ import annotations

import pytest

from tdxstack.cloud.vmparam import VM_STATE_RUNNING, VM_TYPES
from tdxstack.tdtests.guest_shell import boot_id
from tdxstack.tdtests.machines import MachineMaker

pytestmark = pytest.mark.category("lifecycle")


def test_vm_coexist(fresh: MachineMaker) -> None:
    guests = [fresh(vmtype) for vmtype in VM_TYPES]
    assert all(guest.state == VM_STATE_RUNNING for guest in guests)
    assert len({boot_id(guest) for guest in guests}) == len(VM_TYPES)

"""Several TDs at the same time."""

from __future__ import annotations

import pytest

from tdxstack.cloud.vmguest import VMGuestFactory
from tdxstack.cloud.vmparam import VM_STATE_RUNNING, VM_TYPE_TD
from tdxstack.tdtests.environment import Environment
from tdxstack.tdtests.guest_shell import answer, boot_id

pytestmark = pytest.mark.category("lifecycle")
#: The white paper's number, and one for emulated CPUs.
COUNT, COUNT_EMULATED = 11, 3


def test_multiple_tdvms(env: Environment, vm_factory: VMGuestFactory) -> None:
    count = env.count(COUNT, COUNT_EMULATED)
    guests = [
        vm_factory.new_vm(VM_TYPE_TD, env.size, auto_start=True, platform=env.platform_name) for _ in range(count)
    ]
    for guest in guests:
        guest.wait_for_ssh_ready(count * 300)
    assert all(guest.state == VM_STATE_RUNNING for guest in guests)
    assert len({guest.ssh_forward_port for guest in guests}) == count
    assert len({boot_id(guest) for guest in guests}) == count
    assert {answer(guest, "cat /sys/class/net/e*/address") for guest in guests} == {
        guest.vmm.record().run.mac for guest in guests
    }

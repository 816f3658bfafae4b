"""The same again and again, and as much as there is."""

from __future__ import annotations

import secrets

import pytest

from tdxstack.cloud.vmguest import VMGuest, VMGuestFactory
from tdxstack.cloud.vmparam import VM_STATE_PAUSE, VM_STATE_RUNNING, VM_TYPE_TD, VMSpec
from tdxstack.errors import TdxStackError
from tdxstack.tdtests.environment import KIB_PER_GIB, Environment
from tdxstack.tdtests.guest_shell import answer, boot_id
from tdxstack.vm import lifecycle

pytestmark = pytest.mark.category("stress")
QUOTES, QUOTES_EMULATED = 200, 10
CYCLES = 10
MAX_VCPUS = 255
#: More TDs than any host has private KeyIDs for.
MANY = 128


def test_quotes(env: Environment, td: VMGuest) -> None:
    seen = set()
    for _ in range(env.count(QUOTES, QUOTES_EMULATED)):
        data = secrets.token_bytes(64)
        seen.add(lifecycle.call_guest(td.name, "quote", {"report_data": data.hex()})["quote"])
    assert len(seen) == env.count(QUOTES, QUOTES_EMULATED)


def test_suspend_resume(td: VMGuest) -> None:
    before = boot_id(td)
    for _ in range(CYCLES):
        td.suspend()
        assert td.wait_for_state(VM_STATE_PAUSE)
        td.resume()
        assert td.wait_for_state(VM_STATE_RUNNING)
    assert boot_id(td) == before


@pytest.mark.requires("kvm")
def test_max_vcpus(env: Environment, vm_factory: VMGuestFactory) -> None:
    count = min(MAX_VCPUS, env.dut.cpu_count())
    guest = vm_factory.new_vm(VM_TYPE_TD, VMSpec(cores=count, memsize=8 * KIB_PER_GIB), auto_start=True)
    guest.wait_for_ssh_ready()
    assert int(answer(guest, "nproc")) == count


@pytest.mark.requires("tdx-hardware")
def test_max_guests(env: Environment, vm_factory: VMGuestFactory) -> None:
    """One TD more than there are KeyIDs is refused in words, and the others run on."""
    guests: list[VMGuest] = []
    with pytest.raises(TdxStackError, match="No space left on device"):
        for _ in range(MANY):
            guests.append(vm_factory.new_vm(VM_TYPE_TD, VMSpec(cores=1, memsize=KIB_PER_GIB), auto_start=True))
    assert guests
    assert all(guest.state == VM_STATE_RUNNING for guest in guests)

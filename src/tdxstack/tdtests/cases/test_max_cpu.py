"""Machines of two sockets with most of the host's CPUs and memory."""

from __future__ import annotations

import pytest

from tdxstack.cloud.vmguest import VMGuestFactory
from tdxstack.cloud.vmparam import VM_TYPES, VMSpec
from tdxstack.platform.linux_host_files import HostFiles
from tdxstack.tdtests.environment import Environment
from tdxstack.tdtests.guest_shell import answer

pytestmark = pytest.mark.category("lifecycle")
SHARE_OF_CPUS, SHARE_OF_MEMORY = 0.4, 0.8


@pytest.mark.parametrize("vmtype", VM_TYPES)
def test_max_cpu(env: Environment, vm_factory: VMGuestFactory, vmtype: str) -> None:
    size = VMSpec(
        sockets=2, cores=int(env.dut.cpu_count() * SHARE_OF_CPUS), memsize=int(_available_kib() * SHARE_OF_MEMORY)
    )
    guest = vm_factory.new_vm(vmtype, size, auto_start=True)
    guest.wait_for_ssh_ready()
    assert int(answer(guest, "nproc")) == size.vcpus
    sockets = answer(guest, "cat /sys/devices/system/cpu/cpu*/topology/physical_package_id").split()
    assert len(set(sockets)) == 2
    total = int(answer(guest, "sed -n 's/^MemTotal: *//p' /proc/meminfo").split()[0])
    assert 0.9 * size.memory_bytes / 1024 < total <= size.memory_bytes / 1024


def _available_kib() -> int:
    for line in HostFiles().text("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1])
    raise AssertionError("no MemAvailable in /proc/meminfo")

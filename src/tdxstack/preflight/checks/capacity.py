"""How many TDs fit: KeyIDs, memory, huge pages, and limits of device assignment."""

from __future__ import annotations

import re

from tdxstack.platform.linux_host_files import HostReadError
from tdxstack.platform.linux_host_source import Answer
from tdxstack.preflight import msr
from tdxstack.preflight.bios import advice
from tdxstack.preflight.facts import FactMalformed
from tdxstack.preflight.host import Host
from tdxstack.preflight.model import Check, Finding, failed, judged, passed, warned
from tdxstack.preflight.msr import Register

CAPACITY = "/sys/fs/cgroup/misc.capacity"
CURRENT = "/sys/fs/cgroup/misc.current"


def misc_value(text: str, resource: str) -> int | None:
    """The number of a ``misc`` controller's resource (Linux cgroup-v2, "Misc"); None where it is not named."""
    for line in text.splitlines():
        name, _, value = line.strip().partition(" ")
        if name == resource:
            if not re.fullmatch(r"[0-9]{1,18}", value.strip()):
                raise FactMalformed(f"{CAPACITY}: {line[:60]!r}")
            return int(value)
    return None


def _keyids(host: Host) -> Finding:
    capacity = misc_value(host.files.text_or_none(CAPACITY) or "", "tdx")
    if capacity is None:
        return _keyids_from_msr(host)
    used = misc_value(host.files.text_or_none(CURRENT) or "", "tdx") or 0
    evidence = f"{CAPACITY}: tdx {capacity}; {CURRENT}: tdx {used}"
    if used >= capacity:
        return failed(f"{evidence}: all KeyIDs are in use")
    if used * 10 >= capacity * 9:
        return warned(f"{evidence}: {capacity - used} KeyIDs are left")
    return passed(f"{evidence}: {capacity - used} more TDs can start")


def _keyids_from_msr(host: Host) -> Finding:
    if not host.source.tells(Answer.REGISTERS) and host.log.key_ids:
        first, end = host.log.key_ids
        return judged(end - first > 1, f"kernel log: private KeyIDs [{first}, {end}): {end - first - 1} TDs at most")
    good, evidence, values = msr.field(host, Register.IA32_MKTME_KEYID_PARTITIONING, 63, 32, lambda value: value > 1)
    guests = min(values.values()) - 1
    return judged(good, f"{CAPACITY} has no line tdx; {evidence}: {max(guests, 0)} TDs at most")


def _memory(host: Host) -> dict[str, int]:
    found: dict[str, int] = {}
    for line in host.files.text("/proc/meminfo").splitlines():
        match = re.match(r"([A-Za-z_()0-9]+):\s+([0-9]{1,15})(?: kB)?$", line)
        if match:
            found[match[1]] = int(match[2])
    return found


def _huge_pages(host: Host) -> Finding:
    memory = _memory(host)
    total, size, all_memory = (memory.get(key, 0) for key in ("HugePages_Total", "Hugepagesize", "MemTotal"))
    share = total * size * 100 // all_memory if all_memory else 0
    evidence = f"/proc/meminfo: HugePages_Total {total} x {size} kB, {share} % of memory"
    return judged(share <= 50, evidence)


def _free_memory(host: Host) -> Finding:
    memory = _memory(host)
    if "MemTotal" not in memory:
        raise FactMalformed("/proc/meminfo has no MemTotal")
    total, free = memory["MemTotal"] >> 20, memory.get("MemAvailable", 0) >> 20
    return judged(
        free >= 1, f"/proc/meminfo: {free} GiB available of {total} GiB; the module's own tables take 1/256"
    )


def _vfio(host: Host) -> Finding:
    path = "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit"
    try:
        text = host.files.text(path).strip()
    except HostReadError as error:
        if error.missing:
            return passed("vfio_iommu_type1 is not loaded: no devices are assigned")
        raise
    if not re.fullmatch(r"[0-9]{1,12}", text):
        raise FactMalformed(f"{path}: {text[:40]!r}")
    return judged(int(text) > 65535, f"{path} = {text}")


CHECKS = (
    Check(
        "capacity.keyids",
        "KeyIDs for TDs",
        _keyids,
        "at least one private KeyID free",
        "each TD takes one: 'KVM_TDX_INIT_VM failed: No space left on device'",
        f"stop a TD, or raise the split: {advice('key_split')}",
    ),
    Check(
        "capacity.memory",
        "Free memory",
        _free_memory,
        "1 GiB available",
        "a TD's memory is not swapped",
        "stop guests or add memory",
        required=False,
    ),
    Check(
        "capacity.huge_pages",
        "Memory is not bound in huge pages",
        _huge_pages,
        "at most half of the memory in hugetlb pages",
        "upstream TDs take private memory from guest_memfd, which cannot use hugetlb pages",
        "lower vm.nr_hugepages",
        required=False,
    ),
    Check(
        "capacity.vfio",
        "DMA entries for assigned devices",
        _vfio,
        "dma_entry_limit above 65535",
        "a TD's shared memory is mapped in small pieces: VFIO_MAP_DMA fails with 'No space left on device'",
        "echo options vfio_iommu_type1 dma_entry_limit=1000000 > /etc/modprobe.d/vfio.conf, then reboot",
        required=False,
    ),
)

"""How many TDs this machine carries and how much of that is in use: TDX KeyIDs and memory.

KeyIDs: the line ``tdx N`` of the misc controller (Linux cgroup-v2, "Misc"), else MSR 0x87
(IA32_MKTME_KEYID_PARTITIONING), whose bits 63:32 are the private KeyIDs, one of which is the module's own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tdxstack.platform.linux_host_files import HostReadError
from tdxstack.platform.linux_host_source import HostSource

CAPACITY, CURRENT = "/sys/fs/cgroup/misc.capacity", "/sys/fs/cgroup/misc.current"
MEMINFO = "/proc/meminfo"
KEYID_PARTITIONING = 0x87


@dataclass(frozen=True, slots=True)
class KeyIds:
    """TDs that can exist at once. ``used`` is None where only the MSR tells; ``source`` says who told, or None."""

    total: int | None = None
    used: int | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of the host's memory."""

    total: int
    available: int


def keyids(host: HostSource) -> KeyIds:
    """The KeyIDs for TDs; no number where the machine has no TDX, or does not let us look."""
    total = misc_value(host.files.text_or_none(CAPACITY) or "")
    if total is not None:
        return KeyIds(total, misc_value(host.files.text_or_none(CURRENT) or "") or 0, "misc.capacity")
    try:
        private = min(host.msr(cpu, KEYID_PARTITIONING) >> 32 for cpu in host.cpus())
    except (HostReadError, ValueError):
        return KeyIds()
    return KeyIds(max(private - 1, 0), None, f"MSR {KEYID_PARTITIONING:#x}")


def misc_value(text: str) -> int | None:
    """The number behind ``tdx`` in a file of the misc controller."""
    match = re.search(r"^tdx ([0-9]{1,18})$", text, re.MULTILINE)
    return int(match[1]) if match else None


def memory(host: HostSource) -> Memory:
    """The host's memory.

    Raises:
        HostReadError: /proc/meminfo cannot be read.
    """
    text = host.files.text(MEMINFO)
    found = dict(re.findall(r"^(MemTotal|MemAvailable):\s+([0-9]{1,15}) kB$", text, re.MULTILINE))
    return Memory(int(found.get("MemTotal", 0)) << 10, int(found.get("MemAvailable", 0)) << 10)

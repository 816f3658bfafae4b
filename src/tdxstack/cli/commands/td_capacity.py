"""``tdxctl td capacity``: how many TDs fit on this machine, and what the present ones use."""

from __future__ import annotations

import argparse
from typing import Any

from tdxstack.cli import output
from tdxstack.errors import ExitCode

GIB = 1 << 30


def run(args: argparse.Namespace) -> ExitCode:
    body = capacity()
    output.emit(args, output.document("td-capacity", body), lambda: _told(body))
    return ExitCode.DONE


def capacity() -> dict[str, Any]:
    """TDs, memory (bytes) and vCPUs: what the machine has, what is in use, what TDs of this home hold."""
    from tdxstack.platform import linux_host_capacity as host
    from tdxstack.platform.linux_host_source import LiveHost
    from tdxstack.vm import lifecycle
    from tdxstack.vm.state import ACTIVE

    source = LiveHost()
    keyids, memory = host.keyids(source), host.memory(source)
    active = [record for record in lifecycle.list_all() if record.state in ACTIVE]
    free = None if keyids.total is None or keyids.used is None else keyids.total - keyids.used
    held = sum(record.spec.memory for record in active)
    return {
        "tds": {"capacity": keyids.total, "used": keyids.used, "free": free, "source": keyids.source},
        "memory": {"total": memory.total, "available": memory.available, "held_by_tds": held},
        "vcpus": {"total": len(source.cpus()), "held_by_tds": sum(record.spec.vcpus for record in active)},
        "active": [record.name for record in active],
    }


def _told(body: dict[str, Any]) -> str:
    tds, memory, vcpus = body["tds"], body["memory"], body["vcpus"]
    if tds["capacity"] is None:
        keyids = "no TDX KeyIDs told by this machine (misc.capacity, MSR 0x87); software TDs need none"
    else:
        used = "" if tds["used"] is None else f", {tds['used']} in use"
        keyids = f"{tds['capacity']} at once{used} ({tds['source']})"
    available, total, held = (memory[name] / GIB for name in ("available", "total", "held_by_tds"))
    return "\n".join(
        (
            f"TDs:     {keyids}",
            f"memory:  {available:.1f} GiB available of {total:.1f} GiB; TDs hold {held:.1f} GiB",
            f"CPUs:    {vcpus['total']}; {vcpus['held_by_tds']} vCPUs of active TDs",
        )
    )

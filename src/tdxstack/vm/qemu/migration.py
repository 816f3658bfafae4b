"""Saving and loading a machine's memory and devices by QEMU's migration to and from a file (QEMU 8.2 and later)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tdxstack.errors import SystemFault
from tdxstack.vm.qemu.qmp import Monitor

POLL_INTERVAL = 0.05
#: Bytes per second; the default of 128 MiB/s is made for networks.
BANDWIDTH = 1 << 36
ENDED = ("completed", "failed", "cancelled")


def _file(path: Path) -> list[dict[str, Any]]:
    address = {"transport": "file", "filename": str(path), "offset": 0}
    return [{"channel-type": "main", "addr": address}]


async def save(monitor: Monitor, path: Path) -> None:
    """Write the halted machine to ``path``.

    The CPUs must be stopped: with QEMU 7.2 under TCG a running guest's memory does not arrive whole.

    Raises:
        SystemFault: QEMU could not, e.g. for want of space.
    """
    await monitor.execute("migrate-set-parameters", {"max-bandwidth": BANDWIDTH})
    await monitor.execute("migrate", {"channels": _file(path)})
    await _await_end(monitor, "save")


async def load(monitor: Monitor, path: Path) -> None:
    """Read a machine that was started with ``-incoming defer`` from ``path``; its CPUs do not run yet.

    Raises:
        SystemFault: the file does not fit this machine or this QEMU.
    """
    await monitor.execute("migrate-incoming", {"channels": _file(path), "exit-on-error": False})
    await _await_end(monitor, "load")


async def _await_end(monitor: Monitor, what: str) -> None:
    while True:
        answer = await monitor.execute("query-migrate")
        status = answer.get("status", "none")
        if status == "completed":
            return
        if status in ENDED:
            reason = answer.get("error-desc") or status
            raise SystemFault(
                f"cannot {what} the machine's state: {reason}", hint="df -h; tdxctl td logs NAME --qemu"
            )
        await asyncio.sleep(POLL_INTERVAL)

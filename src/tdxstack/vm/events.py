"""What happened to a TD, one JSON document per line, in its directory: state changes and the events of QEMU."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tdxstack.vm.record import Place, now

#: QEMU's events that tell a person something; the rest is its own housekeeping.
NOTED = frozenset({"BLOCK_IO_ERROR", "GUEST_PANICKED", "GUEST_CRASHLOADED", "POWERDOWN", "RESET"}) | frozenset(
    {"RESUME", "SHUTDOWN", "STOP", "SUSPEND", "WAKEUP", "WATCHDOG", "LIBVIRT_LOST", "LIBVIRT_BACK", "UNDEFINED"}
)
#: The log starts anew, with the one before kept, beyond this many bytes.
MAX_SIZE = 1 << 20


def path(name: str) -> Path:
    return Place(name).directory / "events.jsonl"


def note(name: str, event: str, facts: Mapping[str, Any]) -> None:
    """Append one event; a full disk loses events, not the TD."""
    log = path(name)
    try:
        if log.exists() and log.stat().st_size > MAX_SIZE:
            log.replace(log.with_suffix(".old"))
        with log.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"time": now(), "event": event, **facts}) + "\n")
    except OSError:
        return

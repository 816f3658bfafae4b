"""Waiting for something to become true of a TD."""

from __future__ import annotations

import socket
import time
from dataclasses import replace

from tdxstack.errors import SystemFault, UsageError
from tdxstack.vm import lifecycle
from tdxstack.vm.keys import HOST, ssh_port
from tdxstack.vm.record import TdRecord
from tdxstack.vm.site import is_far
from tdxstack.vm.state import ACTIVE, State

INTERVAL = 0.1
BANNER_TIMEOUT = 5.0
#: A guest that boots slowly finds all connections that were given up at its door, and sshd (from 9.8) shuts it to who
#: made more than a handful: after this many seconds there are fewer, each with more time.
SLOW_BOOT = 30.0
SLOW_BANNER_TIMEOUT = 20.0
BANNER = b"SSH-"


def wait_for(name: str, goal: str, timeout: float) -> TdRecord:
    """Wait until ``goal`` holds: ``agent``, ``ssh``, or a state by its name; the record then.

    Raises:
        SystemFault: it did not within ``timeout`` seconds, or the TD ended before.
    """
    if goal == "agent":
        lifecycle.wait_ready(name, timeout)
        return lifecycle.status(name)
    began = time.monotonic()
    deadline = began + timeout
    record = lifecycle.status(name)
    while True:
        patience = BANNER_TIMEOUT if time.monotonic() - began < SLOW_BOOT else SLOW_BANNER_TIMEOUT
        patience = min(patience, max(deadline - time.monotonic(), 1.0))
        if record.state.value == goal or (goal == "ssh" and record.state in ACTIVE and ssh_answers(record, patience)):
            return record
        if record.state not in ACTIVE:
            reason = f": {record.reason}" if record.reason else ""
            raise SystemFault(f"TD {name} is {record.state.value}{reason}", hint=f"tdxctl td logs {name}")
        if time.monotonic() > deadline:
            raise _late(record, goal, timeout)
        time.sleep(INTERVAL)
        record = _again(record)


def _late(record: TdRecord, goal: str, timeout: float) -> SystemFault:
    name, state = record.name, record.state.value
    verb = "resume" if record.state is State.PAUSED and goal in ("ssh", State.RUNNING) else "logs"
    return SystemFault(f"TD {name}: no {goal} within {timeout:g} s: it is {state}", hint=f"tdxctl td {verb} {name}")


def _again(record: TdRecord) -> TdRecord:
    """The record a moment later; a transient TD is forgotten when it stops."""
    try:
        return lifecycle.status(record.name)
    except UsageError:
        if not record.spec.transient:
            raise
        return replace(record, state=State.STOPPED)


def ssh_answers(record: TdRecord, timeout: float = BANNER_TIMEOUT) -> bool:
    """Whether an sshd says its name on the forwarded port (QEMU accepts the connection in any case)."""
    if is_far(record.spec):
        from tdxstack.vm.libvirt.far_site import FarSite

        return FarSite.of(record.spec.connect).banner(ssh_port(record), len(BANNER)) == BANNER
    try:
        with socket.create_connection((HOST, ssh_port(record)), timeout=timeout) as connection:
            return connection.recv(len(BANNER)) == BANNER
    except OSError:
        return False

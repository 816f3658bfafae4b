"""The process that owns a running TD: started with the TD's lock, and its report of how far it is."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from tdxstack.errors import LockHeld, SystemFault
from tdxstack.system.files import take_lock
from tdxstack.vm import record as records
from tdxstack.vm.error_document import error_from_document
from tdxstack.vm.observation import observe
from tdxstack.vm.record import TdRecord

Progress = Callable[[str], None]


def adopt(name: str) -> TdRecord:
    """Give a TD whose machine runs without a supervisor another one; see ``vm.libvirt``.

    Raises:
        SystemFault: its machine cannot be taken over.
    """
    record = observe(name)
    try:
        lock = take_lock(record.place.lock, wait=False)
    except LockHeld:
        return records.load(name)
    try:
        _, reading = spawn_supervisor(records.load(name), lock, "--adopt")
    finally:
        os.close(lock)
    with os.fdopen(reading, "rb") as report:
        return await_report(record, report, None)


def spawn_supervisor(record: TdRecord, lock: int, *more: str) -> tuple[int, int]:
    """Start a supervisor that inherits the lock; its process id, and the end of its report pipe to read from."""
    from tdxstack.system.process import spawn

    place = record.place
    reading, writing = os.pipe()
    words = [record.name, f"--lock={lock}", f"--report={writing}", *more]
    try:
        with place.supervisor_log.open("wb") as log:
            child = spawn(
                [sys.executable, "-P", "-m", "tdxstack.vm.supervisor", *words],
                stdout=log,
                stderr=log,
                pass_fds=(lock, writing),
                cwd=place.directory,
                die_with_parent=False,
                new_session=True,
            )
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    return child.pid, reading


def await_report(record: TdRecord, report: Any, progress: Progress | None) -> TdRecord:
    for line in report:
        message = json.loads(line)
        if "step" in message and progress is not None:
            progress(message["step"])
        if "started" in message:
            return TdRecord.from_mapping(message["started"])
        if "failed" in message:
            raise error_from_document(message["failed"])
    said = record.place.supervisor_log.read_text(errors="replace").strip().splitlines()
    raise SystemFault(
        f"TD {record.name}: its supervisor ended during the start" + (f": {said[-1]}" if said else ""),
        hint=f"tdxctl td start {record.name}; its log: {record.place.supervisor_log}",
    )

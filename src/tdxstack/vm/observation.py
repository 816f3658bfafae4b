"""What a TD's record says, held against what is there: its supervisor, and libvirt's word."""

from __future__ import annotations

from typing import Any

from tdxstack.errors import LockHeld, SystemFault
from tdxstack.system.files import locked
from tdxstack.vm import record as records
from tdxstack.vm.record import TdRecord
from tdxstack.vm.spec import Via
from tdxstack.vm.state import ACTIVE, State


def observe(name: str, known: dict[str, Any] | None = None) -> TdRecord:
    """The record, after a look whether the supervisor that an active state needs is there, and at libvirt.

    ``known`` is handed from one TD to the next by who looks at many: see ``vm.libvirt.observed``.
    """
    record = records.load(name)
    by_libvirt = record.spec.via is Via.LIBVIRT
    if record.state not in ACTIVE and not by_libvirt:
        return record
    try:
        with locked(record.place.lock, wait=False):
            record = records.load(name)
            if by_libvirt:
                from tdxstack.vm.libvirt.observed import observed_by_libvirt

                return observed_by_libvirt(record, {} if known is None else known)
            if record.state not in ACTIVE:
                return record
            record = record.moved(State.FAILED, records.KILLED)
            records.save(record)
    except LockHeld:
        return records.load(name)
    except SystemFault:
        # The disk may be full; the truth is told all the same.
        return record.moved(State.FAILED, records.KILLED) if record.state in ACTIVE else record
    return record

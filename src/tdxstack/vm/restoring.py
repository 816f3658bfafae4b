"""Taking a machine's state to disk and back: what is checked, in which order, and what lies beside QEMU's own."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from tdxstack.errors import PlatformMissing
from tdxstack.platform.base import SavableTdSession, TdSession
from tdxstack.vm import saved
from tdxstack.vm.machine import Machine
from tdxstack.vm.record import OVERLAY, TdRecord
from tdxstack.vm.saved import Saved
from tdxstack.vm.spec import TdSpec


def require_savable(session: TdSession, spec: TdSpec) -> SavableTdSession:
    """The session as one whose state can be saved.

    Raises:
        PlatformMissing: a TD on hardware: its private memory cannot be read by the host.
    """
    if not isinstance(session, SavableTdSession):
        raise PlatformMissing(
            f"TD {spec.name}: the platform {spec.platform} cannot save a TD's state",
            hint="on hardware a TD's private memory is not the host's to save; stop it instead",
        )
    return session


async def take(machine: Machine, record: TdRecord, target: Saved, *, paused: bool, with_disk: bool) -> None:
    """Write the halted machine to ``target``, whole or not at all.

    ``paused``: whether it was paused before, and is to be after it is restored.
    """
    session = require_savable(machine.session, record.spec)
    unfinished = target.begin()
    try:
        state = session.save_state()
        await machine.keep(unfinished.memory, goes_on=with_disk)
        overlay = target.site.directory(record.name) / OVERLAY
        if with_disk and target.site.exists(overlay):
            target.site.copy(overlay, unfinished.disk)
        facts = {
            "spec": record.spec.to_mapping(),
            "paused": paused,
            "firmware_sha256": record.run.firmware_sha256,
            "session": base64.b64encode(state).decode(),
        }
        unfinished.publish(target, facts)
    except BaseException:
        unfinished.discard()
        raise


def prepare(session: TdSession, spec: TdSpec, facts: Mapping[str, Any]) -> None:
    """Hand a saved state's part to the session, before QEMU starts.

    Raises:
        StateError: the specification is another than the one that was saved.
    """
    saved.check_same_machine(spec, facts)
    require_savable(session, spec).load_state(base64.b64decode(facts["session"]))

"""How a domain ended, from libvirt's numbers (``virDomainEventStoppedDetailType``, ``virDomainShutoffReason``)."""

from __future__ import annotations

from enum import IntEnum

from tdxstack.vm.machine import Ending


class Stopped(IntEnum):
    """Details of VIR_DOMAIN_EVENT_STOPPED."""

    SHUTDOWN = 0
    DESTROYED = 1
    CRASHED = 2
    MIGRATED = 3
    SAVED = 4
    FAILED = 5
    FROM_SNAPSHOT = 6


class Shutoff(IntEnum):
    """Reasons of VIR_DOMAIN_SHUTOFF."""

    UNKNOWN = 0
    SHUTDOWN = 1
    DESTROYED = 2
    CRASHED = 3
    MIGRATED = 4
    SAVED = 5
    FAILED = 6
    FROM_SNAPSHOT = 7
    DAEMON = 8


_BY_OTHERS: dict[int, str] = {
    Stopped.DESTROYED: "it was destroyed through libvirt",
    Stopped.MIGRATED: "it was migrated away through libvirt",
    Stopped.SAVED: "it was saved through libvirt (virsh start goes on from there)",
    Stopped.FROM_SNAPSHOT: "it was reverted to a snapshot through libvirt",
}


def ending_of(detail: int, *, expected: bool) -> Ending:
    """The ending that a lifecycle event tells; ``expected``: we ended it ourselves."""
    if expected or detail == Stopped.SHUTDOWN:
        return Ending()
    if detail in _BY_OTHERS:
        return Ending(reason=_BY_OTHERS[detail])
    return Ending(fault="QEMU ended unexpectedly, libvirt says (its log: /var/log/libvirt/qemu)")


def ending_of_shutoff(reason: int) -> Ending:
    """The ending of a domain that was found shut off for ``reason``."""
    if reason in (Shutoff.SHUTDOWN, Shutoff.UNKNOWN):
        return Ending()
    if reason in (Shutoff.DESTROYED, Shutoff.MIGRATED, Shutoff.SAVED, Shutoff.FROM_SNAPSHOT):
        return ending_of(reason - 1, expected=False)
    return ending_of(Stopped.FAILED, expected=False)

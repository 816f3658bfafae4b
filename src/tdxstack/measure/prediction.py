"""What a prediction consists of, and what it is made from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tdxstack.measure.blobs import FirmwareBlobs
from tdxstack.measure.boot_disk import BootDisk
from tdxstack.measure.firmware import FirmwareFacts, FirmwareProfile
from tdxstack.measure.mrtd import MrtdOrder
from tdxstack.measure.rtmr import COUNT, fold
from tdxstack.wire.efi.varstore import Variable

#: RTMR0..3, and why one of them is not known.
Registers = tuple[bytes | None, bytes | None, bytes | None, bytes | None]
Reasons = tuple[str | None, str | None, str | None, str | None]


@dataclass(frozen=True, slots=True)
class PredictionInputs:
    """Everything that decides the registers of a boot: blobs, not files; the disk is read by its reader alone.

    Args:
        firmware: the firmware file.
        memory_bytes: RAM of the TD.
        kernel: the kernel file of a direct boot, or None for a boot from the disk.
        initrd: the initrd file, or None.
        cmdline: the kernel's command line as given to QEMU.
        blobs: what QEMU offers over fw_cfg; None if unknown.
        profile: a profile, or the name of one or of a platform (``software``, ``tdx``).
        facts: what was found in the firmware, if known already (saves decompressing it again).
        variables: UEFI variables at boot; None takes those in the firmware file.
        ima: the guest's kernel measures by IMA with SHA-384, each entry into RTMR2.
        mrtd_order: of the stack that launches the TD.
        disk: the TD's first disk, if it has one.
    """

    firmware: bytes
    memory_bytes: int
    kernel: bytes | None = None
    initrd: bytes | None = None
    cmdline: str = ""
    blobs: FirmwareBlobs | None = None
    profile: FirmwareProfile | str = "software"
    facts: FirmwareFacts | None = None
    variables: tuple[Variable, ...] | None = None
    ima: bool = False
    mrtd_order: MrtdOrder = MrtdOrder.SINGLE_PASS
    disk: BootDisk | None = None

    @property
    def blobs_source(self) -> str:
        """Where the blobs are from, in words."""
        return "nowhere" if self.blobs is None else self.blobs.source


@dataclass(frozen=True, slots=True)
class PredictedEvent:
    """One extend of one register.

    Args:
        rtmr: 0..3.
        event_type: as in the event log.
        digest: SHA-384, or None if it cannot be known; ``why`` then says so.
        name: a short name of what is measured, e.g. ``kernel``, ``initrd``, ``ACPI etc/acpi/tables``.
        why: in words, what is measured and from what it was computed.
        logged: whether the event is in the CC log (IMA's are not).
        alternatives: digests that other circumstances would give, by the circumstance.
        text: the text whose digest it is, where it is one.
    """

    rtmr: int
    event_type: int
    digest: bytes | None
    name: str
    why: str
    logged: bool = True
    alternatives: tuple[tuple[str, bytes], ...] = ()
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """Expected registers. ``rtmr[n]`` is None where an event of register n is unknown; ``reasons[n]`` names it."""

    profile: str
    mrtd: bytes
    rtmr: Registers
    events: tuple[PredictedEvent, ...]
    reasons: Reasons

    def of_register(self, rtmr: int) -> tuple[PredictedEvent, ...]:
        """The events of one register, in order."""
        return tuple(event for event in self.events if event.rtmr == rtmr)


def registers(events: Iterable[PredictedEvent]) -> tuple[Registers, Reasons]:
    """The registers that events lead to; for one with an unknown event None, and the first such event in words."""
    values: list[bytes | None] = []
    reasons: list[str | None] = []
    kept = list(events)
    for rtmr in range(COUNT):
        mine = [event for event in kept if event.rtmr == rtmr]
        unknown = [f"{event.name}: {event.why}" for event in mine if event.digest is None]
        values.append(None if unknown else fold(event.digest for event in mine if event.digest is not None))
        reasons.append(unknown[0] if unknown else None)
    return (values[0], values[1], values[2], values[3]), (reasons[0], reasons[1], reasons[2], reasons[3])

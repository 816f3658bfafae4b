"""A prediction in the making: events as they come, and what of them cannot be known."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from tdxstack.measure.pcr import PcrBank
from tdxstack.measure.prediction import PredictedEvent
from tdxstack.wire.pe import authenticode
from tdxstack.wire.tcg import EventType, mr_index_of_pcr


@dataclass(slots=True)
class Trace:
    """Events as they come, and the PCRs beside them, which IMA's first entry is made of."""

    events: list[PredictedEvent] = field(default_factory=list)
    bank: PcrBank = field(default_factory=PcrBank)

    def add(
        self,
        pcr: int,
        kind: EventType,
        measured: bytes | None,
        name: str,
        why: str,
        *,
        in_bank: bool = True,
        logged: bool = True,
        text: str | None = None,
    ) -> None:
        """Extend by the SHA-384 digest of ``measured`` (None: unknown)."""
        digest = None if measured is None else hashlib.sha384(measured).digest()
        self.add_digest(pcr, kind, digest, name, why, in_bank=in_bank, logged=logged, text=text)

    def add_image(self, image: bytes, name: str, why: str) -> None:
        """Extend PCR 4 by an EFI application's Authenticode digest.

        Raises:
            WireError: no PE image.
        """
        self.add_digest(4, EventType.EV_EFI_BOOT_SERVICES_APPLICATION, image_digest(image), name, why)

    def add_digest(
        self,
        pcr: int,
        kind: EventType,
        digest: bytes | None,
        name: str,
        why: str,
        *,
        in_bank: bool = True,
        logged: bool = True,
        alternatives: tuple[tuple[str, bytes], ...] = (),
        text: str | None = None,
    ) -> None:
        """Extend by a SHA-384 digest; PCR 0 has no RTMR."""
        if in_bank:
            self.bank.extend(pcr, digest)
        if mr_index := mr_index_of_pcr(pcr):
            self.events.append(PredictedEvent(mr_index - 1, kind, digest, name, why, logged, alternatives, text))


def image_digest(image: bytes) -> bytes:
    """Authenticode digest (SHA-384) of an EFI application.

    Raises:
        WireError: no PE image.
    """
    return authenticode(image, "sha384")[0]

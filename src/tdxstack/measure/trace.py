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
    """Events as they come, and the SHA-256 PCRs beside them, which IMA's first entry is made of."""

    events: list[PredictedEvent] = field(default_factory=list)
    bank: PcrBank | None = None

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
        """Extend by the digest of ``measured`` (None: unknown)."""
        both = (None, None) if measured is None else self.digests(measured)
        self.add_digests(pcr, kind, both, name, why, in_bank=in_bank, logged=logged, text=text)

    def add_image(self, image: bytes, name: str, why: str) -> None:
        """Extend PCR 4 by an EFI application's Authenticode digest.

        Raises:
            WireError: no PE image.
        """
        self.add_digests(4, EventType.EV_EFI_BOOT_SERVICES_APPLICATION, self.image_digests(image), name, why)

    def digests(self, data: bytes) -> tuple[bytes, bytes | None]:
        """SHA-384, and SHA-256 where there is a bank that needs it."""
        return hashlib.sha384(data).digest(), hashlib.sha256(data).digest() if self.bank is not None else None

    def image_digests(self, image: bytes) -> tuple[bytes, bytes | None]:
        """Authenticode digests of an EFI application, as :meth:`digests`."""
        found = authenticode(image, *(("sha384",) if self.bank is None else ("sha384", "sha256")))
        return found[0], found[1] if len(found) > 1 else None

    def add_digests(
        self,
        pcr: int,
        kind: EventType,
        both: tuple[bytes | None, bytes | None],
        name: str,
        why: str,
        *,
        in_bank: bool = True,
        logged: bool = True,
        alternatives: tuple[tuple[str, bytes], ...] = (),
        text: str | None = None,
    ) -> None:
        """Extend by a SHA-384 and a SHA-256 digest; PCR 0 has no RTMR."""
        if in_bank and self.bank is not None:
            self.bank.extend(pcr, both[1])
        if mr_index := mr_index_of_pcr(pcr):
            event = PredictedEvent(mr_index - 1, kind, both[0], name, why, logged, alternatives, text)
            self.events.append(event)

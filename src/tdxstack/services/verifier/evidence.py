"""What a request for attestation holds."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

from tdxstack.services.pccs import body
from tdxstack.services.pccs.body import Members, bad
from tdxstack.wire.tcg import EventLog

MAX_QUOTE = 1 << 16
MAX_HELD = 1 << 16
MAX_LOG = 1 << 20


@dataclass(frozen=True, slots=True)
class Evidence:
    """Decoded evidence. ``event_log`` is a CC event log (the data area of a CCEL), or None."""

    nonce: bytes
    quote: bytes
    held_data: bytes
    event_log: EventLog | None

    @property
    def report_data(self) -> bytes:
        """What the quote's REPORTDATA must be: SHA-512 of the nonce and, if there is some, the held data."""
        return hashlib.sha512(self.nonce + self.held_data).digest()


def read_evidence(data: bytes) -> Evidence:
    """Read ``{"nonce", "quote"[, "held_data"][, "event_log"]}``, all base64 or base64url. Raises Refusal (400)."""
    members, _ = body.load(data)
    log = _bytes(members, "event_log", MAX_LOG, optional=True)
    return Evidence(
        nonce=_bytes(members, "nonce", 64),
        quote=_bytes(members, "quote", MAX_QUOTE),
        held_data=_bytes(members, "held_data", MAX_HELD, optional=True),
        event_log=_log(log) if log else None,
    )


def _bytes(members: Members, name: str, limit: int, *, optional: bool = False) -> bytes:
    text = body.text_of(members, name, default="" if optional else None)
    if len(text) > limit * 4 // 3 + 4:
        raise bad(f"{name}: more than {limit} bytes.")
    try:
        plain = text.rstrip("=").replace("-", "+").replace("_", "/")
        found = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise bad(f"{name}: not base64.") from None
    if not found and not optional:
        raise bad(f"{name}: empty.")
    return found


def _log(data: bytes) -> EventLog:
    from tdxstack.errors import WireError

    try:
        return EventLog.from_bytes(data)
    except WireError as error:
        raise bad(f"event_log: {error.message}.") from None

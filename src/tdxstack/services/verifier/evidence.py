"""What a request for attestation holds."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from tdxstack.errors import WireError
from tdxstack.services.pccs import body
from tdxstack.services.pccs.body import Members, bad
from tdxstack.wire.ima import ImaEntry, read_list
from tdxstack.wire.tcg import EventLog

MAX_QUOTE = 1 << 16
MAX_HELD = 1 << 16
MAX_LOG = 1 << 20
MAX_IMA = 4 << 20
#: Of a whole request, in bytes.
MAX_BODY = 8 << 20
#: Name of the policy that the settings give without a name.
DEFAULT_POLICY = "default"
POLICY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FIELDS = frozenset({"nonce", "quote", "held_data", "event_log", "ima_list", "policy"})


@dataclass(frozen=True, slots=True)
class Evidence:
    """Decoded evidence. ``event_log`` is a CC event log (the data area of a CCEL), ``ima_list`` Linux's run-time
    measurement list; each is None where it was not sent. ``policy`` names one of the verifier's."""

    nonce: bytes
    quote: bytes
    held_data: bytes = b""
    event_log: EventLog | None = None
    ima_list: tuple[ImaEntry, ...] | None = None
    policy: str = DEFAULT_POLICY

    @property
    def report_data(self) -> bytes:
        """What the quote's REPORTDATA must be: SHA-512 of the nonce and, if there is some, the held data."""
        return hashlib.sha512(self.nonce + self.held_data).digest()


def read_evidence(data: bytes) -> Evidence:
    """Read ``{"nonce", "quote"[, "held_data"][, "event_log"[, "ima_list"]][, "policy"]}``.

    All but the policy's name are base64 or base64url. Raises Refusal (400).
    """
    members, _ = body.load(data)
    if unknown := sorted(members.keys() - _FIELDS):
        raise bad(f"{unknown[0][:64]!r}: not a member of a request.")
    log = _bytes(members, "event_log", MAX_LOG, optional=True)
    ima = _bytes(members, "ima_list", MAX_IMA, optional=True)
    if ima and not log:
        raise bad("ima_list: without event_log nothing says where it begins.")
    return Evidence(
        nonce=_bytes(members, "nonce", 64),
        quote=_bytes(members, "quote", MAX_QUOTE),
        held_data=_bytes(members, "held_data", MAX_HELD, optional=True),
        event_log=_log(log) if log else None,
        ima_list=_ima(ima) if ima else None,
        policy=body.text_of(members, "policy", POLICY_NAME, default=DEFAULT_POLICY),
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
    try:
        return EventLog.from_bytes(data)
    except WireError as error:
        raise bad(f"event_log: {error.message}.") from None


def _ima(data: bytes) -> tuple[ImaEntry, ...]:
    try:
        return read_list(data)
    except WireError as error:
        raise bad(f"ima_list: {error.message}.") from None

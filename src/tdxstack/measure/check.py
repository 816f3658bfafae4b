"""Digests held against event data, where the digest is a function of the data.

A log replays whatever its events claim to be, as types and data are not hashed. For many types the firmware hashes
exactly what it logs, or a known part of it: there a false description shows.

Source: TCG PC Client Platform Firmware Profile 1.06, section 10.4.1; for EV_IPL the text forms of GRUB (``grub_cmd``,
``kernel_cmdline``) and systemd-stub.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from tdxstack.errors import WireError
from tdxstack.wire.efi.variable import VariableData
from tdxstack.wire.tcg import Algorithm, Event, EventType

_WHOLE = frozenset(
    (
        EventType.EV_SEPARATOR,
        EventType.EV_ACTION,
        EventType.EV_EFI_ACTION,
        EventType.EV_S_CRTM_VERSION,
        EventType.EV_EFI_VARIABLE_DRIVER_CONFIG,
        EventType.EV_EFI_VARIABLE_AUTHORITY,
        EventType.EV_EFI_VARIABLE_BOOT2,
        EventType.EV_EFI_GPT_EVENT,
        EventType.EV_OMIT_BOOT_DEVICE_EVENTS,
    )
)
_GRUB_PREFIXES = (b"grub_cmd: ", b"kernel_cmdline: ", b"module_cmdline: ", b"grub_cmd ", b"grub_kernel_cmdline ")
_NAMES: dict[int, str] = {
    Algorithm.SHA1: "sha1",
    Algorithm.SHA256: "sha256",
    Algorithm.SHA384: "sha384",
    Algorithm.SHA512: "sha512",
    Algorithm.SHA3_256: "sha3_256",
    Algorithm.SHA3_384: "sha3_384",
    Algorithm.SHA3_512: "sha3_512",
}


def digest_matches_data(event: Event) -> bool | None:
    """Whether all the event's digests follow from its data.

    Returns:
        None where the digest is not a function of the data (a file's content, a table), so that nothing is proved.
    """
    candidates = list(_candidates(event))
    known = [(_NAMES[algorithm], value) for algorithm, value in event.digests if algorithm in _NAMES]
    if not candidates or not known:
        return None
    return any(all(hashlib.new(name, data).digest() == value for name, value in known) for data in candidates)


def _candidates(event: Event) -> Iterator[bytes]:
    kind, data = event.event_type, event.data
    if kind in _WHOLE:
        yield data
    if kind in (EventType.EV_EFI_VARIABLE_BOOT, EventType.EV_EFI_VARIABLE_BOOT2):
        # OVMF hashes the value alone, other firmware the whole structure, as the specification allows both.
        yield data
        try:
            yield VariableData.from_bytes(data).value
        except WireError:
            return
    if kind == EventType.EV_IPL:
        yield from _grub_text(data)


def _grub_text(data: bytes) -> Iterator[bytes]:
    for prefix in _GRUB_PREFIXES:
        if data.startswith(prefix):
            text = data[len(prefix) :]
            yield from (text, text[:-1], text[:-2])
            return


def false_descriptions(events: tuple[Event, ...]) -> tuple[str, ...]:
    """A sentence for each event whose digest is not that of the data it shows."""
    from tdxstack.measure.describe import describe

    return tuple(
        f"event {number} is not what it says ({describe(event)}): its digest is of something else"
        for number, event in enumerate(events)
        if event.event_type != EventType.EV_NO_ACTION and digest_matches_data(event) is False
    )

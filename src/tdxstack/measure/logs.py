"""Event logs as they come: a CC log, a TPM's log, the JSON list of dstack, and IMA lists beside them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import Enum
from typing import Any

from tdxstack.errors import WireError
from tdxstack.wire.ima import ImaEntry
from tdxstack.wire.tcg import (
    Algorithm,
    Digest,
    Event,
    EventLog,
    EventType,
    SpecIdEvent,
    mr_index_of_pcr,
)

MAX_JSON = 64 << 20
MAX_JSON_EVENTS = 100_000
CCEL_SIGNATURE = b"CCEL"
#: What the first events of a TPM's log are: PCR 0 is the firmware's own.
_FIRMWARE_ITSELF = frozenset(
    (
        EventType.EV_S_CRTM_VERSION,
        EventType.EV_S_CRTM_CONTENTS,
        EventType.EV_POST_CODE,
        EventType.EV_POST_CODE2,
        EventType.EV_EFI_HCRTM_EVENT,
    )
)
#: dstack's own events, extended into RTMR3 while the TD runs.
DSTACK_RUNTIME_EVENT = 0x08000001
#: IMA's index: PCR 10 where there is a TPM; 2, the RTMR itself, with Intel's TDX 1.5 guest kernel.
IMA_RTMR = {10: 2, 2: 2}


class LogFormat(Enum):
    """Where a log comes from."""

    CC = "ccel"
    TPM = "tpm"
    DSTACK = "dstack"


@dataclass(frozen=True, slots=True)
class LoadedLog:
    """A log as a CC log (register indexes 1..4), with the fault that ended the reading, if any.

    ``original`` has the events as they were; a TPM log's events are mapped onto RTMRs in ``log``.
    """

    format: LogFormat
    log: EventLog
    original: EventLog
    fault: WireError | None = None
    problems: tuple[str, ...] = ()


def load(data: bytes) -> LoadedLog:
    """Read a log of any known format; a log that is cut short gives its events and the fault.

    Raises:
        WireError: no known format.
    """
    if data[:64].lstrip()[:1] in (b"{", b"["):
        log, problems = _load_dstack(data)
        return LoadedLog(LogFormat.DSTACK, log, log, problems=problems)
    if data.startswith(CCEL_SIGNATURE):
        reason = "this is the ACPI table; the log is the data it points to (/sys/firmware/acpi/tables/data/CCEL)"
        raise WireError("event log", "signature", 0, reason)
    log, fault = EventLog.read(data)
    if _is_tpm_log(log):
        return LoadedLog(LogFormat.TPM, _as_registers(log), log, fault)
    return LoadedLog(LogFormat.CC, log, log, fault, _space(log, fault))


def joined(first: LoadedLog, *further: LoadedLog) -> LoadedLog:
    """One log of several: each register gets the events of the first, then those of the others.

    The fault, if any, is that of the first log that has one.
    """
    logs = (first, *further)
    return LoadedLog(
        first.format,
        _one_behind_the_other(first.log, [one.log for one in logs]),
        _one_behind_the_other(first.original, [one.original for one in logs]),
        next((one.fault for one in logs if one.fault is not None), None),
        tuple(problem for one in logs for problem in one.problems),
    )


def _one_behind_the_other(header: EventLog, logs: list[EventLog]) -> EventLog:
    return EventLog(header.header, tuple(event for log in logs for event in log.events))


def _is_tpm_log(log: EventLog) -> bool:
    if log.header.index != 0:
        return False
    extended = [event for event in log.events if event.event_type != EventType.EV_NO_ACTION]
    if len(log.header.algorithms) > 1:
        return any(event.mr_index == 0 or event.mr_index > 4 for event in extended)
    # One bank, as in a CC log: a TPM's log starts with the firmware itself, which a CC log cannot hold.
    return any(event.mr_index == 0 and event.event_type in _FIRMWARE_ITSELF for event in extended)


def _as_registers(log: EventLog) -> EventLog:
    events = tuple(
        Event(index, event.event_type, event.digests, event.data, event.offset)
        for event in log.events
        if event.event_type != EventType.EV_NO_ACTION and (index := mr_index_of_pcr(event.mr_index))
    )
    return EventLog(log.header, events)


def _space(log: EventLog, fault: WireError | None) -> tuple[str, ...]:
    """What the log's end looks like: a full area, or bytes that are no padding."""
    if fault is not None:
        return ()
    if not log.trailing_is_padding:
        return ("bytes that are no padding follow the last event",)
    used = log.events[-1].offset + len(log.events[-1].to_bytes()) if log.events else 0
    total = used + len(log.trailing)
    if used and total % 4096 == 0 and len(log.trailing) < 128:
        return (f"the log area of {total} bytes is full: later events were extended and not logged",)
    return ()


def _load_dstack(data: bytes) -> tuple[EventLog, tuple[str, ...]]:
    if len(data) > MAX_JSON:
        raise WireError("JSON event log", "log", 0, f"{len(data)} bytes, more than {MAX_JSON}")
    document = _json(data, "document")
    if isinstance(document, dict) and "tcb_info" in document:  # dstack's answer to Info
        document = _json(document["tcb_info"], "tcb_info")
    if isinstance(document, dict):
        document = _json(document.get("event_log", document.get("eventLog")), "event_log")
    if not isinstance(document, list) or len(document) > MAX_JSON_EVENTS:
        raise WireError("JSON event log", "event_log", 0, f"not a list of at most {MAX_JSON_EVENTS} events")
    events: list[Event] = []
    problems: list[str] = []
    for number, item in enumerate(document):
        event, problem = _dstack_event(item, number)
        events.append(event)
        problems += [problem] if problem else []
    return EventLog(SpecIdEvent(), tuple(events)), tuple(problems)


def _json(value: Any, name: str) -> Any:
    """A member that is JSON, or text that holds JSON."""
    if not isinstance(value, str | bytes):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise WireError("JSON event log", name, getattr(error, "pos", 0), "not JSON") from None


def _dstack_event(item: Any, number: int) -> tuple[Event, str | None]:
    try:
        register, kind = int(item["imr"]), int(item["event_type"])
        digest = bytes.fromhex(item["digest"])
        name, payload = str(item.get("event", "")), bytes.fromhex(item.get("event_payload", ""))
        text = name.encode()
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise WireError("JSON event log", f"event {number}", 0, f"{type(error).__name__}: {error}") from None
    if len(digest) != 48 or not 0 <= kind < 1 << 32 or not 0 <= register < 1 << 31:
        raise WireError("JSON event log", f"event {number}", 0, "imr, event_type or digest is out of range")
    problem = None
    if kind == DSTACK_RUNTIME_EVENT:
        expected = hashlib.sha384(kind.to_bytes(4, "little") + b":" + text + b":" + payload).digest()
        if expected != digest:
            problem = f"event {number} is not what it says ({name}): its digest is of something else"
    data = f"{name}: {payload.hex()}".encode() if name else payload
    return Event(register + 1, kind, (Digest(Algorithm.SHA384, digest),), data), problem


def ima_extends(entries: tuple[ImaEntry, ...]) -> tuple[list[tuple[int, bytes]], list[str]]:
    """(RTMR, digest) pairs of an IMA list, and what is wrong with it.

    The digests are computed from the entries' own fields, not taken from the list.
    """
    extends: list[tuple[int, bytes]] = []
    problems: list[str] = []
    for number, entry in enumerate(entries):
        rtmr = IMA_RTMR.get(entry.index)
        if rtmr is None:
            problems.append(f"IMA entry {number} ({entry.name}) is for index {entry.index}, which is no RTMR's")
            continue
        if not entry.digest_holds:
            problems.append(
                f"IMA entry {number} ({entry.name}) was altered: its template digest is not of its fields"
            )
        extends.append((rtmr, entry.extended()))
    return extends, problems

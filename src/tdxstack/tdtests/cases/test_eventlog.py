"""The event log of a TD against its registers."""

from __future__ import annotations

import base64
from hashlib import sha384

import pytest

from tdxstack.attest.judge import Verdict
from tdxstack.attest.running import attest_td
from tdxstack.cloud.vmguest import VMGuest
from tdxstack.measure.replay import replay
from tdxstack.tdtests.guest_shell import answer
from tdxstack.vm import lifecycle
from tdxstack.wire.tcg import EventLog, EventType

pytestmark = pytest.mark.category("event log")
#: Index of RTMR2 in a CC event log, where MRTD is 0.
RTMR2 = 3


def _log(guest: VMGuest) -> EventLog:
    return EventLog.from_bytes(base64.b64decode(lifecycle.call_guest(guest.name, "eventlog")["data"]))


def test_eventlog(td: VMGuest) -> None:
    """It has the events that every boot has, in the registers where they belong."""
    events = _log(td).events
    kinds = {event.event_type for event in events}
    assert {EventType.EV_SEPARATOR, EventType.EV_EFI_VARIABLE_DRIVER_CONFIG, EventType.EV_EVENT_TAG} <= kinds
    assert {event.mr_index for event in events if event.event_type == EventType.EV_SEPARATOR} >= {1, 2}


def test_eventlog_kernel(td: VMGuest) -> None:
    """Command line and initrd of a direct boot are in RTMR2: the command line that the kernel runs with."""
    cmdline = answer(td, "cat /proc/cmdline").rstrip("\n")
    events = [event for event in _log(td).events if event.mr_index == RTMR2]
    loaded = [event for event in events if b"LOADED_IMAGE::LoadOptions" in event.data]
    assert [event.digest() for event in loaded] == [sha384(f"{cmdline}\0".encode("utf-16-le")).digest()]
    assert any(b"Linux initrd" in event.data for event in events)


def test_check_rtmr(td: VMGuest) -> None:
    """The log replays to the registers that the TDX module has."""
    registers = lifecycle.call_guest(td.name, "rtmr.read")["rtmr"]
    replayed = replay(_log(td))
    assert replayed.problems == ()
    assert [value.hex() for value in replayed.rtmr[:3]] == registers[:3]


def test_attestation(td: VMGuest) -> None:
    """Quote, log and prediction agree, and the evidence is accepted."""
    attestation, members = attest_td(td.name, None, None, None)
    assert attestation.verdict is Verdict.ACCEPTED, members["reasons"]

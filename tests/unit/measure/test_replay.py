"""Replays of real logs against the registers in the quotes made with them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.measure.replay import replay, replay_tpm
from tdxstack.measure.rtmr import ZERO, extend, fold
from tdxstack.wire.tcg import Algorithm, Digest, Event, EventLog, EventType, SpecIdEvent

#: Offset of RTMR0 in a version 4 quote: header 48, then the TD report body.
RTMR0_IN_QUOTE = 48 + 328


def test_gce_log_replays_to_its_quote(vectors: Path) -> None:
    folder = vectors / "measurement" / "gce-cos-113"
    quote = (folder / "cos-113-tdx-quote.dat").read_bytes()
    result = replay(EventLog.from_bytes((folder / "ccel_data.dat").read_bytes()))
    assert b"".join(result.rtmr) == quote[RTMR0_IN_QUOTE : RTMR0_IN_QUOTE + 192]
    assert result.extended == (16, 7, 20, 0)
    assert not result.problems


def event(index: int, kind: int = EventType.EV_SEPARATOR, digest: bytes = bytes(48)) -> Event:
    return Event(index, kind, (Digest(Algorithm.SHA384, digest),), b"")


def test_changed_digest_swapped_and_missing_events_change_the_register() -> None:
    one, two = event(1, digest=b"\1" * 48), event(1, digest=b"\2" * 48)
    values = {
        replay(EventLog(SpecIdEvent(), events)).rtmr[0]
        for events in [(one, two), (two, one), (one,), (two,), (one, one, two), ()]
    }
    assert len(values) == 6


def test_no_action_is_not_extended() -> None:
    log = EventLog(SpecIdEvent(), (event(0xFFFFFFFF, EventType.EV_NO_ACTION), event(1, EventType.EV_NO_ACTION)))
    assert replay(log).rtmr == (ZERO,) * 4
    assert not replay(log).problems


@pytest.mark.parametrize(("index", "text"), [(0, "MRTD"), (5, "beyond RTMR3"), (0xFFFFFFFF, "beyond RTMR3")])
def test_events_without_a_register_are_problems(index: int, text: str) -> None:
    (problem,) = replay(EventLog(SpecIdEvent(), (event(index),))).problems
    assert text in problem
    assert "event 0" in problem


def test_event_without_sha384_is_a_problem() -> None:
    only_sha256 = Event(1, EventType.EV_SEPARATOR, (Digest(Algorithm.SHA256, bytes(32)),), b"")
    (problem,) = replay(EventLog(SpecIdEvent(((Algorithm.SHA256, 32),)), (only_sha256,))).problems
    assert "no SHA-384" in problem


def test_further_logs_come_after_the_first() -> None:
    log = EventLog(SpecIdEvent(), (event(3, digest=b"a" * 48), event(4, digest=b"b" * 48)))
    result = replay(log, [(2, b"c" * 48)], [(3, b"d" * 48), (4, b"e" * 48), (0, b"short")])
    assert result.rtmr[2] == fold([b"a" * 48, b"c" * 48])
    assert result.rtmr[3] == fold([b"b" * 48, b"d" * 48])
    assert len(result.problems) == 2


@given(st.lists(st.binary(min_size=48, max_size=48), max_size=5))
def test_fold_is_repeated_extend(digests: list[bytes]) -> None:
    register = ZERO
    for digest in digests:
        register = extend(register, digest)
    assert fold(digests) == register


def test_extend_is_sha384_of_both() -> None:
    assert extend(bytes(48), b"\7" * 48) == hashlib.sha384(bytes(48) + b"\7" * 48).digest()


def test_tpm_replay_knows_banks_and_startup_locality() -> None:
    locality = Event(0, EventType.EV_NO_ACTION, (), b"StartupLocality\0\3")
    digests = (Digest(Algorithm.SHA256, b"\1" * 32), Digest(Algorithm.SHA384, b"\2" * 48))
    log = EventLog(SpecIdEvent(), (locality, Event(0, EventType.EV_SEPARATOR, digests, b"")))
    assert replay_tpm(log)[0] == hashlib.sha384(bytes(47) + b"\3" + b"\2" * 48).digest()
    assert replay_tpm(log, Algorithm.SHA256)[0] == hashlib.sha256(bytes(31) + b"\3" + b"\1" * 32).digest()

"""Crypto-agile logs: vectors of real firmware, round trips, and damage told with its offset."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import WireError
from tdxstack.wire.tcg import (
    Algorithm,
    Digest,
    Event,
    EventLog,
    EventType,
    SpecIdEvent,
    cc_log_of_tpm_log,
    event_type_name,
    mr_index_of_pcr,
)

LOGS = {
    "gce-cos-113/ccel_data.dat": (43, 244043),
    "parser/CCEL_data": (5, 1038754),
    "parser/CCEL_data_ovmf": (20, 63416),
    "parser/CCEL_data_csv": (82, 55971),
    "swtpm-rig/out1/tpmlog": (24, 0),
    "swtpm-rig/out10_ovmf-generic_2026.08ds/tpmlog": (30, 0),
    "swtpm-rig/out_ovmf_2025.02/tpmlog": (28, 0),
    "swtpm-rig/outd_uki/tpmlog": (40, 0),
}

BANKS = st.sampled_from(
    [
        ((Algorithm.SHA384, 48),),
        ((Algorithm.SHA256, 32), (Algorithm.SHA384, 48)),
        ((Algorithm.SHA1, 20), (Algorithm.SHA256, 32), (Algorithm.SM3_256, 32)),
        ((0x7777, 5),),
    ]
)


@st.composite
def logs(draw: st.DrawFn) -> EventLog:
    banks = draw(BANKS)
    header = SpecIdEvent(
        algorithms=banks,
        platform_class=draw(st.integers(0, 1)),
        vendor_info=draw(st.binary(max_size=255)),
        index=draw(st.integers(0, 1)),
    )
    events = []
    for _ in range(draw(st.integers(0, 6))):
        digests = tuple(Digest(algorithm, draw(st.binary(min_size=size, max_size=size))) for algorithm, size in banks)
        events.append(
            Event(draw(st.integers(0, 23)), draw(st.sampled_from(EventType)), digests, draw(st.binary(max_size=40)))
        )
    return EventLog(header, tuple(events), draw(st.sampled_from([b"", bytes(64), b"\xff" * 64, b"\xff" * 5, b"\0"])))


@given(logs())
def test_a_log_read_back_is_the_log(log: EventLog) -> None:
    again = EventLog.from_bytes(log.to_bytes())
    assert again == log
    assert again.to_bytes() == log.to_bytes()


@given(logs(), st.data())
def test_damage_raises_nothing_but_wire_errors(log: EventLog, data: st.DataObject) -> None:
    raw = bytearray(log.to_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        parsed, fault = EventLog.read(cut)
    except WireError:
        return
    assert parsed.to_bytes() == cut
    if fault is not None:
        with pytest.raises(WireError):
            EventLog.from_bytes(cut)


@pytest.mark.parametrize("name", LOGS)
def test_real_logs_are_read_whole_and_written_back(vectors: Path, name: str) -> None:
    data = (vectors / "measurement" / name).read_bytes()
    log = EventLog.from_bytes(data)
    assert (len(log.events), len(log.trailing)) == LOGS[name]
    assert log.trailing_is_padding
    assert log.to_bytes() == data
    assert all(data[event.offset :].startswith(event.to_bytes()) for event in log.events)


def test_events_agree_with_another_parser(vectors: Path) -> None:
    folder = vectors / "measurement" / "parser"
    expected = json.loads((folder / "CCEL_data_ovmf_out.json").read_text())["uefi_event_logs"]
    events = EventLog.from_bytes((folder / "CCEL_data_ovmf").read_bytes()).events
    assert [event_type_name(event.event_type) for event in events] == [item["type_name"] for item in expected]
    digests = [event.digest() for event in events]
    assert digests == [bytes.fromhex(item["digests"][0]["digest"]) for item in expected]
    assert [event.mr_index for event in events] == [item["index"] for item in expected]


def small_log(trailing: bytes = b"") -> EventLog:
    digest = Digest(Algorithm.SHA384, bytes(range(48)))
    return EventLog(SpecIdEvent(), (Event(1, EventType.EV_SEPARATOR, (digest,), bytes(4)),) * 2, trailing)


def test_a_cut_log_is_told_with_its_offset() -> None:
    whole = small_log().to_bytes()
    log, fault = EventLog.read(whole[:-1])
    assert len(log.events) == 1
    assert fault is not None
    assert fault.offset == len(whole) - 8
    assert "cut short" in fault.reason


@pytest.mark.parametrize(
    ("damage", "field"),
    [
        (lambda raw: raw[:20], "header"),
        (lambda raw: raw[:4] + b"\x04" + raw[5:], "eventType"),
        (lambda raw: raw[:32] + b"Spec ID Event02\0" + raw[48:], "signature"),
        (lambda raw: raw[:56] + struct.pack("<I", 0) + raw[60:], "numberOfAlgorithms"),
        (lambda raw: raw[:56] + struct.pack("<I", 1 << 31) + raw[60:], "numberOfAlgorithms"),
        (lambda raw: raw[:62] + struct.pack("<H", 32) + raw[64:], "digestSize"),
        (lambda raw: raw[:28] + struct.pack("<I", 0xFFFFFFFF) + raw[32:], "eventDataSize"),
        (lambda raw: raw[:64] + b"\x07" + raw[65:], "vendorInfoSize"),
        (lambda raw: raw[:73] + struct.pack("<I", 2) + raw[77:], "digests.count"),
        (lambda raw: raw[:77] + struct.pack("<H", 11) + raw[79:], "digests.hashAlg"),
        (lambda raw: raw[:127] + struct.pack("<I", 0xFFFFFFFF) + raw[131:], "eventSize"),
    ],
)
def test_each_damaged_field_is_named(damage: object, field: str) -> None:
    with pytest.raises(WireError) as caught:
        EventLog.from_bytes(damage(small_log().to_bytes()))  # type: ignore[operator]
    assert caught.value.field == field


def test_an_event_with_one_algorithm_twice_is_refused() -> None:
    banks = ((Algorithm.SHA256, 32), (Algorithm.SHA384, 48))
    digests = (Digest(Algorithm.SHA384, bytes(48)),) * 2
    log = EventLog(SpecIdEvent(banks), (Event(1, EventType.EV_SEPARATOR, digests, b""),))
    with pytest.raises(WireError, match="twice"):
        EventLog.from_bytes(log.to_bytes())


def test_no_action_event_with_index_minus_one_does_not_end_the_log() -> None:
    note = Event(0xFFFFFFFF, EventType.EV_NO_ACTION, (), b"SP800-155 Event3")
    log = EventLog(SpecIdEvent(), (note, *small_log().events))
    assert EventLog.from_bytes(log.padded(4096).to_bytes()).events == log.events


def test_padding_to_an_area() -> None:
    log = small_log().padded(1024)
    assert len(log.to_bytes()) == 1024
    assert log.trailing.strip(b"\xff") == b""
    with pytest.raises(WireError):
        log.padded(100)


def test_garbage_behind_the_end_is_kept_and_noticed() -> None:
    log = EventLog.from_bytes(small_log(b"\xff" * 12 + b"note").to_bytes())
    assert not log.trailing_is_padding
    assert log.trailing.endswith(b"note")


def test_an_area_of_ones_in_a_page_of_zeros_is_padding() -> None:
    log = EventLog.from_bytes(small_log(b"\xff" * 100 + bytes(100)).to_bytes())
    assert log.trailing_is_padding
    assert log.events == small_log().events


def test_each_log_that_is_cut_in_its_first_record_is_said_to_be_cut_short() -> None:
    header = SpecIdEvent().to_bytes()
    for length in range(len(header)):
        with pytest.raises(WireError, match="cut short") as caught:
            EventLog.from_bytes(header[:length])
        assert 0 <= caught.value.offset <= length


def test_registers_of_pcrs() -> None:
    assert [mr_index_of_pcr(pcr) for pcr in range(17)] == [0, 1, 2, 2, 2, 2, 2, 1, *[3] * 8, None]


def test_the_cc_log_of_a_tpm_log_keeps_what_a_td_would_log(vectors: Path) -> None:
    name = "swtpm-rig/out10_ovmf-generic_2026.08ds/tpmlog"
    tpm = EventLog.from_bytes((vectors / "measurement" / name).read_bytes())
    extra = small_log().events[0]
    cc = cc_log_of_tpm_log(tpm, [extra])
    assert cc.events[0] == extra
    assert len(cc.events) == 1 + sum(event.mr_index != 0 for event in tpm.events)
    assert {len(event.digests) for event in cc.events} == {1}
    assert cc.events[1].mr_index == 1
    assert EventLog.from_bytes(cc.to_bytes()) == cc

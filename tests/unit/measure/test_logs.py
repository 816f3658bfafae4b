from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import WireError
from tdxstack.measure.logs import LogFormat, ima_extends, load
from tdxstack.measure.replay import replay
from tdxstack.wire.ima import read_list
from tdxstack.wire.quote import Quote, TdReportBody
from tdxstack.wire.tcg import Algorithm, Digest, Event, EventLog, EventType, SpecIdEvent

BOOT = Path(__file__).parents[2] / "vectors" / "measure" / "direct-boot"


def dstack(vectors: Path) -> Any:
    return json.loads((vectors / "measurement" / "dstack" / "quote-report.json").read_text())


def test_formats_are_told_apart(vectors: Path) -> None:
    folder = vectors / "measurement"
    assert load((folder / "gce-cos-113" / "ccel_data.dat").read_bytes()).format is LogFormat.CC
    assert load((folder / "parser" / "CCEL_data").read_bytes()).format is LogFormat.CC
    assert load((folder / "swtpm-rig" / "out1" / "tpmlog").read_bytes()).format is LogFormat.TPM
    assert load((folder / "dstack" / "quote-report.json").read_bytes()).format is LogFormat.DSTACK


def empty_event(index: int, kind: int, *algorithms: int) -> Event:
    sizes = {Algorithm.SHA256: 32, Algorithm.SHA384: 48}
    return Event(index, kind, tuple(Digest(one, bytes(sizes[Algorithm(one)])) for one in algorithms), b"")


@pytest.mark.parametrize(
    ("header", "algorithms", "indexes", "form"),
    [
        (1, (12,), (1, 4, 5), LogFormat.CC),
        (0, (12,), (1, 4, 5), LogFormat.CC),
        (0, (12,), (0, 1), LogFormat.CC),
        (0, (11, 12), (1, 4), LogFormat.CC),
        (0, (11, 12), (0, 1), LogFormat.TPM),
        (0, (11, 12), (1, 7), LogFormat.TPM),
    ],
)
def test_an_index_that_is_wrong_makes_no_tpm_log(
    header: int, algorithms: tuple[int, ...], indexes: tuple[int, ...], form: LogFormat
) -> None:
    spec = SpecIdEvent(tuple((one, {11: 32, 12: 48}[one]) for one in algorithms), index=header)
    events = tuple(empty_event(index, EventType.EV_SEPARATOR, *algorithms) for index in indexes)
    loaded = load(EventLog(spec, events).to_bytes())
    assert loaded.format is form
    wrong = [index for index in indexes if form is LogFormat.CC and not 1 <= index <= 4]
    assert len(replay(loaded.log).problems) == len(wrong)


def test_a_tpm_log_of_one_bank_starts_with_the_firmware_itself() -> None:
    events = (empty_event(0, EventType.EV_S_CRTM_VERSION, 12), empty_event(7, EventType.EV_SEPARATOR, 12))
    assert load(EventLog(SpecIdEvent(index=0), events).to_bytes()).format is LogFormat.TPM


def test_dstack_log_replays_to_its_quote(vectors: Path) -> None:
    report = dstack(vectors)
    loaded = load(json.dumps(report).encode())
    assert loaded.problems == ()
    quote = Quote.from_bytes(bytes.fromhex(report["quote"]))
    assert isinstance(quote.body, TdReportBody)
    assert replay(loaded.log).rtmr == quote.body.rtmrs


@pytest.mark.parametrize("as_text", [False, True])
def test_dstacks_answer_to_info(vectors: Path, as_text: bool) -> None:
    inner = {"event_log": json.loads(dstack(vectors)["event_log"])}
    loaded = load(json.dumps({"tcb_info": json.dumps(inner) if as_text else inner}).encode())
    assert len(loaded.log.events) == len(inner["event_log"])


@pytest.mark.parametrize("change", ["event", "event_payload"])
def test_a_false_application_event_is_found(vectors: Path, change: str) -> None:
    events = json.loads(dstack(vectors)["event_log"])
    (target,) = [item for item in events if item["event"] == "app-id"]
    target[change] = "00" if change == "event_payload" else "other"
    (problem,) = load(json.dumps(events).encode()).problems
    assert "is not what it says" in problem


@pytest.mark.parametrize(
    "document",
    [
        "{",
        "{}",
        '{"event_log": 5}',
        '{"tcb_info": 5}',
        '{"tcb_info": "{"}',
        '[{"imr": 0}]',
        '[{"imr": 0, "event_type": 1, "digest": "00"}]',
        '["x"]',
        "[" * 5000,
    ],
)
def test_damaged_json(document: str) -> None:
    with pytest.raises(WireError):
        load(document.encode())


def test_a_tpm_log_is_mapped_onto_registers() -> None:
    loaded = load((BOOT / "tpmlog").read_bytes())
    assert {event.mr_index for event in loaded.log.events} == {1, 2, 3}
    assert {event.mr_index for event in loaded.original.events} > {0, 7}


def test_ima_entries_become_extends() -> None:
    entries = read_list((BOOT / "ima.bin").read_bytes())
    extends, problems = ima_extends(entries)
    assert problems == []
    assert [(rtmr, len(digest)) for rtmr, digest in extends] == [(2, 48)]


def event(data: bytes) -> Event:
    return Event(1, EventType.EV_EFI_ACTION, (Digest(Algorithm.SHA384, bytes(48)),), data)


def test_a_full_area_and_garbage_are_told() -> None:
    header = len(SpecIdEvent().to_bytes())
    data = EventLog(SpecIdEvent(), (event(bytes(4096 - header - 66)),), b"").to_bytes()
    assert len(data) == 4096
    (problem,) = load(data).problems
    assert "is full" in problem
    (problem,) = load(EventLog(SpecIdEvent(), (event(b""),), b"\xff" * 12 + b"x").to_bytes()).problems
    assert "no padding" in problem
    assert load(EventLog(SpecIdEvent(), (event(b""),)).padded(4096).to_bytes()).problems == ()


@given(st.binary(max_size=200))
def test_junk_raises_nothing_but_wire_errors(junk: bytes) -> None:
    for prefix in (b"", b"[", b'{"event_log": ', (BOOT / "tpmlog").read_bytes()[:300]):
        try:
            load(prefix + junk)
        except WireError as error:
            assert error.structure

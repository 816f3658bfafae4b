"""``tdxctl eventlog`` as its users and scripts see it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tdxstack.cli.main import main
from tdxstack.wire.tcg import EventLog, EventType

BOOT = Path(__file__).parents[3] / "vectors" / "measure" / "direct-boot"


@pytest.fixture
def gce(vectors: Path) -> Path:
    return vectors / "measurement" / "gce-cos-113"


def document(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(capsys.readouterr().out)
    return body


def test_show(gce: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eventlog", "show", str(gce / "ccel_data.dat"), "--json"]) == 0
    body = document(capsys)
    assert body["schema"] == "tdxstack/eventlog/v1"
    assert len(body["events"]) == 43
    assert body["problems"] == []
    first = body["events"][0]
    assert (first["register"], first["type_name"]) == ("RTMR0", "EV_EFI_HANDOFF_TABLES2")
    assert main(["eventlog", "show", str(gce / "ccel_data.dat")]) == 0
    assert "partition table (GPT) with 12 partitions" in capsys.readouterr().out


def test_yaml_is_the_same_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eventlog", "show", str(BOOT / "tpmlog"), "--yaml"]) == 0
    text = capsys.readouterr().out
    assert text.startswith('schema: "tdxstack/eventlog/v1"\n')
    assert '  - number: 0\n    index: 0\n    register: "PCR0"\n' in text


def test_a_cut_log_shows_what_is_there_and_fails(
    gce: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut"
    cut.write_bytes((gce / "ccel_data.dat").read_bytes()[:1000])
    assert main(["eventlog", "show", str(cut), "--json"]) == 1
    body = document(capsys)
    assert body["truncated_at"] is not None
    assert body["events"]
    assert "cut short" in body["problems"][0]
    assert main(["eventlog", "replay", str(cut), "--json"]) == 1
    assert document(capsys)["error"] == "WireError"


def test_replay_against_a_quote(gce: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["eventlog", "replay", str(gce / "ccel_data.dat"), "--quote", str(gce / "cos-113-tdx-quote.dat"), "--json"]
    assert main(argv) == 0
    body = document(capsys)
    assert body["schema"] == "tdxstack/eventlog-replay/v1"
    assert (body["format"], body["events"], body["problems"]) == ("ccel", 43, [])
    assert body["rtmr"] == body["quoted"]
    assert body["matches"] == [True] * 4


def test_replay_without_anything_to_compare(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eventlog", "replay", str(BOOT / "tpmlog"), "--json"]) == 0
    body = document(capsys)
    assert (body["format"], body["quoted"], body["matches"]) == ("tpm", None, None)


def altered(source: Path, target: Path, **changes: Any) -> Path:
    log = EventLog.from_bytes(source.read_bytes())
    number = next(n for n, event in enumerate(log.events) if event.event_type == EventType.EV_EFI_ACTION)
    events = list(log.events)
    events[number] = replace(events[number], **changes)
    target.write_bytes(replace(log, events=tuple(events)).to_bytes())
    return target


def test_a_log_of_another_boot_is_rejected(gce: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forged = altered(gce / "ccel_data.dat", tmp_path / "log", mr_index=3)
    assert main(["eventlog", "replay", str(forged), "--quote", str(gce / "cos-113-tdx-quote.dat"), "--json"]) == 3
    assert document(capsys)["matches"] == [True, False, False, True]


def test_true_digests_with_false_descriptions_are_rejected(
    gce: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forged = altered(gce / "ccel_data.dat", tmp_path / "log", data=b"Nothing happened")
    assert main(["eventlog", "replay", str(forged), "--quote", str(gce / "cos-113-tdx-quote.dat"), "--json"]) == 3
    body = document(capsys)
    assert body["matches"] == [True] * 4
    assert "is not what it says" in body["problems"][0]


def test_events_beyond_rtmr3_fail(gce: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forged = altered(gce / "ccel_data.dat", tmp_path / "log", mr_index=5)
    assert main(["eventlog", "replay", str(forged), "--json"]) == 1
    assert "beyond RTMR3" in document(capsys)["problems"][0]


def test_replay_with_an_ima_list(gce: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = str(gce / "ccel_data.dat")
    main(["eventlog", "replay", log, "--json"])
    before = document(capsys)["rtmr"]
    assert main(["eventlog", "replay", log, "--ima", str(BOOT / "ima.bin"), "--json"]) == 0
    after = document(capsys)["rtmr"]
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, True, False, True]
    changed = bytearray((BOOT / "ima.bin").read_bytes())
    changed[-10] ^= 1
    (tmp_path / "ima").write_bytes(bytes(changed))
    assert main(["eventlog", "replay", log, "--ima", str(tmp_path / "ima"), "--json"]) == 3
    assert "was altered" in document(capsys)["problems"][0]


def test_diff(gce: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = gce / "ccel_data.dat"
    assert main(["eventlog", "diff", str(log), str(log), "--json"]) == 0
    assert document(capsys) == {"schema": "tdxstack/eventlog-diff/v1", "same": True, "differences": []}
    other = EventLog.from_bytes(log.read_bytes())
    (tmp_path / "other").write_bytes(replace(other, events=other.events[:-1]).to_bytes())
    assert main(["eventlog", "diff", str(log), str(tmp_path / "other"), "--json"]) == 1
    (difference,) = document(capsys)["differences"]
    assert difference["second"] is None
    assert main(["eventlog", "diff", str(log), str(tmp_path / "other")]) == 1
    assert "no further event" in capsys.readouterr().out


def test_explain_by_a_good_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = str(BOOT / "tpmlog")
    assert main(["eventlog", "explain", good, "--good", good, "--json"]) == 0
    assert document(capsys)["as_expected"] is True
    log = EventLog.from_bytes((BOOT / "tpmlog").read_bytes())
    other = hashlib.sha384(b"other").digest()
    events = [
        replace(event, digests=tuple(entry._replace(value=other[: len(entry.value)]) for entry in event.digests))
        if b"Linux initrd" in event.data
        else event
        for event in log.events
    ]
    (tmp_path / "bad").write_bytes(replace(log, events=tuple(events)).to_bytes())
    assert main(["eventlog", "explain", str(tmp_path / "bad"), "--good", good, "--json"]) == 3
    difference = document(capsys)["difference"]
    assert (difference["rtmr"], difference["expected"]) == (2, "initrd")
    assert "another initrd" in difference["cause"]
    assert main(["eventlog", "explain", str(tmp_path / "bad"), "--good", good]) == 3
    assert "next:" in capsys.readouterr().out


def test_a_missing_log_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eventlog", "show", "/nonexistent"]) == 2
    assert "No such file" in capsys.readouterr().err
    assert main(["eventlog", "show"]) != 0, "outside a TD there is no log to read"


def test_a_quote_inside_json(vectors: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = str(vectors / "measurement" / "dstack" / "quote-report.json")
    assert main(["eventlog", "replay", report, "--quote", report, "--json"]) == 0
    body = document(capsys)
    assert (body["format"], body["matches"]) == ("dstack", [True] * 4)


def test_a_differing_register_is_rejected_even_beside_other_problems(
    gce: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = EventLog.from_bytes((gce / "ccel_data.dat").read_bytes())
    beyond = replace(log.events[-1], mr_index=5)
    for events, expected in (((*log.events, beyond), 1), ((*log.events[:-1], beyond), 3)):
        changed = tmp_path / "log"
        changed.write_bytes(EventLog(log.header, events).to_bytes())
        quote = ["--quote", str(gce / "cos-113-tdx-quote.dat")]
        assert main(["eventlog", "replay", str(changed), *quote, "--json"]) == expected
        assert "no register beyond RTMR3" in document(capsys)["problems"][0]


def test_logs_that_have_no_rtmr(vectors: Path, gce: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SM3 digests are read by the sizes in the header, but no RTMR follows from them; the ACPI table is no log."""
    assert main(["eventlog", "show", str(vectors / "measurement" / "parser" / "CCEL_data_csv"), "--json"]) == 0
    body = document(capsys)
    assert [(one["name"], one["size"]) for one in body["algorithms"]] == [("sm3_256", 32)]
    assert len(body["events"]) == 82
    assert main(["eventlog", "replay", str(vectors / "measurement" / "parser" / "CCEL_data_csv"), "--json"]) == 1
    assert len(document(capsys)["problems"]) == 1
    assert main(["eventlog", "replay", str(gce / "ccel_table.dat"), "--json"]) == 1
    assert "this is the ACPI table" in document(capsys)["message"]


def runtime_events(*pairs: tuple[str, bytes]) -> tuple[str, bytes]:
    """dstack's list of events that an application extended, and RTMR3 after them."""
    kind, register, items = 0x08000001, bytes(48), []
    for name, payload in pairs:
        digest = hashlib.sha384(kind.to_bytes(4, "little") + b":" + name.encode() + b":" + payload).digest()
        register = hashlib.sha384(register + digest).digest()
        item = {"imr": 3, "event_type": kind, "digest": digest.hex(), "event": name, "event_payload": payload.hex()}
        items.append(item)
    return json.dumps(items), register


def test_replay_joins_the_log_of_applications(gce: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """CCEL has no record of what user space extends: RTMR3 follows from a log of its own."""
    log = str(gce / "ccel_data.dat")
    assert main(["eventlog", "replay", log, "--json"]) == 0
    alone = document(capsys)
    text, rtmr3 = runtime_events(("app-id", b"one"), ("compose-hash", bytes(32)))
    (tmp_path / "app.json").write_text(text)
    assert main(["eventlog", "replay", log, "--also", str(tmp_path / "app.json"), "--json"]) == 0
    body = document(capsys)
    assert body["rtmr"] == [*alone["rtmr"][:3], rtmr3.hex()]
    assert body["events"] == alone["events"] + 2
    assert body["format"] == alone["format"]
    (tmp_path / "more.json").write_text(text)
    also = ["--also", str(tmp_path / "app.json"), "--also", str(tmp_path / "more.json")]
    assert main(["eventlog", "replay", log, *also, "--json"]) == 0
    assert document(capsys)["events"] == alone["events"] + 4


def test_a_false_description_in_a_further_log_is_rejected(
    gce: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, _ = runtime_events(("app-id", b"one"))
    (tmp_path / "app.json").write_text(text.replace(b"one".hex(), b"two".hex()))
    also = ["--also", str(tmp_path / "app.json")]
    assert main(["eventlog", "replay", str(gce / "ccel_data.dat"), *also, "--json"]) == 3
    assert "app-id" in document(capsys)["problems"][0]
    (tmp_path / "app.json").write_text("[{]")
    assert main(["eventlog", "replay", str(gce / "ccel_data.dat"), *also, "--json"]) == 1


@pytest.mark.parametrize(
    ("argv", "next_command"),
    [
        (["measure", "mrtd"], "tdxctl firmware fetch inteltdx"),
        (["eventlog", "replay"], "tdxctl guest eventlog --out FILE"),
        (["quote", "show"], "tdxctl guest quote"),
        (["report", "show"], "tdxctl guest report"),
    ],
)
def test_what_is_not_the_structure_is_told_with_the_next_command(
    argv: list[str], next_command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(bytes(2000))
    assert main([*argv, str(tmp_path / "file"), "--json"]) == 1
    caught = capsys.readouterr()
    assert next_command in caught.err
    assert next_command in json.loads(caught.out)["hint"]

"""The CC log made of TPM logs of real boots."""

from __future__ import annotations

from pathlib import Path

import pytest

from tdxstack.errors import PlatformMissing, WireError
from tdxstack.platform.software.guest.ccel import AREA_SIZE, cc_log, ccel_table, read_tpm_log
from tdxstack.wire.ccel import CcelTable, CcType
from tdxstack.wire.tcg import Algorithm, Digest, Event, EventLog, EventType, SpecIdEvent

CASES = ("out1", "out10_ovmf-generic_2026.08ds", "outd_uki")


def record(index: int, kind: int, text: bytes) -> Event:
    return Event(index, kind, (Digest(Algorithm.SHA384, bytes([len(text) % 256]) * 48),), text)


HOB = record(1, EventType.EV_EFI_HANDOFF_TABLES2, b"hob")
CFV = record(1, EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB2, b"configuration volume")


def tpm_log(vectors: Path, case: str) -> bytes:
    folder = vectors / "measurement" / "swtpm-rig" / case
    found = [path for path in sorted(folder.rglob("tpmlog*")) if path.is_file()]
    if not found:
        pytest.skip(f"no TPM log in {folder}")
    return found[0].read_bytes()


@pytest.mark.parametrize("case", CASES)
def test_logs_of_real_boots(vectors: Path, case: str) -> None:
    source = tpm_log(vectors, case)
    area = cc_log(source, HOB.to_bytes() + CFV.to_bytes())
    assert len(area) % AREA_SIZE == 0
    log = EventLog.from_bytes(area)
    assert log.header.algorithms == ((Algorithm.SHA384, 48),)
    assert log.events[:2] == (HOB, CFV)
    assert log.trailing.strip(b"\xff") == b""
    assert len(log.trailing) >= 12
    registers = {1: 1, 7: 1, **dict.fromkeys(range(2, 7), 2), **dict.fromkeys(range(8, 16), 3)}
    expected = [
        (registers[event.mr_index], event.event_type, event.digest(), event.data)
        for event in EventLog.from_bytes(source).events
        if event.mr_index and event.event_type != EventType.EV_NO_ACTION
    ]
    assert [(event.mr_index, event.event_type, event.digest(), event.data) for event in log.events[2:]] == expected


def test_events_of_pcr_0_are_dropped() -> None:
    source = EventLog(SpecIdEvent(index=0), (record(0, 1, b"post"), record(7, 4, b"sep"), record(9, 6, b"x")))
    log = EventLog.from_bytes(cc_log(source.to_bytes(), b""))
    assert [event.mr_index for event in log.events] == [1, 3]


def test_a_log_that_does_not_fit_gets_a_larger_area() -> None:
    source = EventLog(SpecIdEvent(index=0), (record(9, 6, b"\0" * AREA_SIZE),))
    assert len(cc_log(source.to_bytes(), b"")) == 2 * AREA_SIZE


def test_a_log_without_sha384_is_refused_with_the_remedy() -> None:
    event = Event(7, 4, (Digest(Algorithm.SHA256, bytes(32)),), b"")
    source = EventLog(SpecIdEvent(algorithms=((Algorithm.SHA256, 32),), index=0), (event,))
    with pytest.raises(PlatformMissing, match="no SHA-384 digests") as caught:
        cc_log(source.to_bytes(), b"")
    assert "sha384" in (caught.value.hint or "")


@pytest.mark.parametrize("cut", [1, 40])
def test_what_is_cut_short_is_refused(cut: int) -> None:
    source = EventLog(SpecIdEvent(index=0), (record(9, 6, b"x" * 30),)).to_bytes()
    with pytest.raises(WireError):
        cc_log(source[:-cut], b"")
    with pytest.raises(WireError):
        cc_log(source, HOB.to_bytes()[:-1])


def test_the_table_fits_the_area() -> None:
    table = CcelTable.from_bytes(ccel_table(bytes(2 * AREA_SIZE)))
    assert (table.cc_type, table.log_area_minimum_length) == (CcType.TDX, 2 * AREA_SIZE)


def test_no_tpm_log(tmp_path: Path) -> None:
    with pytest.raises(PlatformMissing, match="no TPM event log"):
        read_tpm_log(tmp_path / "none")
    (tmp_path / "empty").touch()
    with pytest.raises(PlatformMissing, match="empty"):
        read_tpm_log(tmp_path / "empty")

"""TD HOB and CFV events, against digests that TDs on hardware logged."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from firmware_file import GENERIC_4M, firmware_file, layout_4m
from tdxstack.errors import WireError
from tdxstack.measure.difference import explain_change
from tdxstack.measure.launch import launch_events, ram_ranges, td_hob, td_hob_event
from tdxstack.measure.memory_search import memory_of
from tdxstack.measure.prediction import PredictedEvent
from tdxstack.wire.hob import TdHob
from tdxstack.wire.tcg import EventLog, EventType
from tdxstack.wire.tdvf import TdvfMetadata

GIB = 1 << 30
#: First TEMP_MEM section, memory in GiB, SHA-384 of the TD HOB (prefix) as logged by TDs on hardware.
ON_HARDWARE = [
    ((0x811000, 0xF000), 1, "2b630fa1"),
    ((0x810000, 0x10000), 2, "0b8772e5"),
    ((0x810000, 0x10000), 8, "2e070cda"),
    ((0x810000, 0x10000), 16, "cd2312a0"),
    ((0x810000, 0x10000), 64, "8ae1e425"),
]


@pytest.mark.parametrize(("temporary", "gib", "expected"), ON_HARDWARE)
def test_td_hob_of_hardware(temporary: tuple[int, int], gib: int, expected: str) -> None:
    digest = td_hob_event(TdvfMetadata(layout_4m(temporary), 0), gib * GIB).digest()
    assert digest is not None
    assert digest.hex()[:8] == expected


@pytest.mark.parametrize(("temporary", "gib", "expected"), ON_HARDWARE)
def test_the_memory_size_follows_from_the_digest(temporary: tuple[int, int], gib: int, expected: str) -> None:
    digest = td_hob_event(TdvfMetadata(layout_4m(temporary), 0), gib * GIB).digest()
    assert digest is not None
    assert memory_of(digest) == gib * GIB
    assert memory_of(digest[::-1]) is None


@pytest.mark.parametrize(
    ("temporary", "memory", "words"),
    [
        ((0x810000, 0x10000), 4 * GIB, "the TD had 4 GiB, not 2 GiB"),
        ((0x811000, 0xF000), 3 * GIB // 2, "the TD had 1536 MiB, not 2 GiB"),
        ((0x811000, 0xF000), 2 * GIB, "another firmware release, with the same 2 GiB of memory"),
        ((0x810000, 0x10000), 2 * GIB + 4096, "another memory size, or another firmware"),
    ],
)
def test_another_memory_size_is_told_in_words(temporary: tuple[int, int], memory: int, words: str) -> None:
    wanted = td_hob_event(TdvfMetadata(GENERIC_4M, 0), 2 * GIB)
    expected = PredictedEvent(0, EventType(wanted.event_type), wanted.digest(), "TD HOB", "")
    cause, advice = explain_change(expected, td_hob_event(TdvfMetadata(layout_4m(temporary), 0), memory))
    assert words in cause
    assert "memory size" in advice


def test_the_memory_size_of_a_td_on_hardware(vectors: Path) -> None:
    log = EventLog.from_bytes((vectors / "measurement" / "parser" / "CCEL_data_ovmf").read_bytes())
    assert memory_of(log.events[0].digest() or b"") == 2 * GIB


def test_events_have_the_bytes_of_a_real_log(vectors: Path) -> None:
    log = EventLog.from_bytes((vectors / "measurement" / "parser" / "CCEL_data_ovmf").read_bytes())
    hob, cfv = launch_events(firmware_file(GENERIC_4M), 2 * GIB)
    assert hob == log.events[0]
    assert (cfv.mr_index, cfv.event_type, cfv.data) == (
        1,
        EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB2,
        log.events[1].data,
    )


def test_cfv_is_measured_as_loaded() -> None:
    firmware = firmware_file(GENERIC_4M)
    assert launch_events(firmware, GIB)[1].digest() == hashlib.sha384(firmware[:0x84000]).digest()


@pytest.mark.parametrize(
    ("size", "ranges"),
    [
        (GIB, ((0, GIB),)),
        (0xAFFFFFFF, ((0, 0xAFFFFFFF),)),
        (0xB0000000, ((0, 0x80000000), (1 << 32, (1 << 32) + 0x30000000))),
        (4 * GIB, ((0, 0x80000000), (1 << 32, (1 << 32) + 2 * GIB))),
    ],
)
def test_ram_ranges(size: int, ranges: tuple[tuple[int, int], ...]) -> None:
    assert ram_ranges(size) == ranges


@pytest.mark.parametrize("gib", [1, 2, 3, 64])
def test_hob_round_trip(gib: int) -> None:
    hob = td_hob(TdvfMetadata(GENERIC_4M, 0), gib * GIB)
    assert TdHob.from_bytes(hob.to_bytes()) == hob
    assert hob.to_bytes()[:-8] == hob.measured()
    assert sum(resource.length for resource in hob.resources) == gib * GIB


def test_too_little_memory_is_refused() -> None:
    with pytest.raises(WireError, match="RAM"):
        td_hob(TdvfMetadata(GENERIC_4M, 0), 0x800000)


@pytest.mark.parametrize("cut", [0, 55, 60, 100])
def test_damaged_hob_lists(cut: int) -> None:
    whole = td_hob(TdvfMetadata(GENERIC_4M, 0), GIB).to_bytes()
    with pytest.raises(WireError):
        TdHob.from_bytes(whole[:cut])

"""Event data held against digests: what real logs say of themselves is true, and a lie is found."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.measure.check import digest_matches_data, false_descriptions
from tdxstack.measure.describe import MAX_TEXT, describe
from tdxstack.wire.efi.variable import GLOBAL_VARIABLE, VariableData
from tdxstack.wire.tcg import Algorithm, Digest, Event, EventLog, EventType


def sha384(data: bytes) -> tuple[Digest, ...]:
    return (Digest(Algorithm.SHA384, hashlib.sha384(data).digest()),)


@pytest.mark.parametrize(
    "name",
    [
        "gce-cos-113/ccel_data.dat",
        "parser/CCEL_data_ovmf",
        "swtpm-rig/out1/tpmlog",
        "swtpm-rig/outd_uki/tpmlog",
        "swtpm-rig/out10_ovmf-generic_2026.08ds/tpmlog",
    ],
)
def test_real_logs_tell_the_truth(vectors: Path, name: str) -> None:
    events = EventLog.from_bytes((vectors / "measurement" / name).read_bytes()).events
    assert false_descriptions(events) == ()
    assert sum(digest_matches_data(event) is True for event in events) >= 10


def test_agrees_with_another_tool(vectors: Path) -> None:
    folder = vectors / "measurement" / "parser"
    expected = json.loads((folder / "CCEL_data_ovmf_out.json").read_text())["uefi_event_logs"]
    events = EventLog.from_bytes((folder / "CCEL_data_ovmf").read_bytes()).events
    for event, item in zip(events, expected, strict=True):
        if item["digest_matches_event"]:
            assert digest_matches_data(event) is True


@pytest.mark.parametrize(
    ("kind", "data", "hashed"),
    [
        (EventType.EV_SEPARATOR, bytes(4), bytes(4)),
        (EventType.EV_EFI_ACTION, b"Exit", b"Exit"),
        (EventType.EV_IPL, b"grub_cmd: linux /boot\0", b"linux /boot"),
        (EventType.EV_IPL, b"kernel_cmdline: /boot root=x\0", b"/boot root=x"),
        (
            EventType.EV_EFI_VARIABLE_BOOT,
            VariableData(GLOBAL_VARIABLE, "BootOrder", b"\0\0").to_bytes(),
            b"\0\0",
        ),
    ],
)
def test_true_and_false_descriptions(kind: int, data: bytes, hashed: bytes) -> None:
    true = Event(1, kind, sha384(hashed), data)
    assert digest_matches_data(true) is True
    lie = replace(true, digests=sha384(b"something else"))
    assert digest_matches_data(lie) is False
    (text,) = false_descriptions((lie,))
    assert "event 0 is not what it says" in text


@pytest.mark.parametrize(
    ("kind", "data"),
    [(EventType.EV_PLATFORM_CONFIG_FLAGS, b"ACPI DATA"), (EventType.EV_IPL, b"/boot/vmlinuz\0"), (0x1234, b"x")],
)
def test_what_proves_nothing_is_left_alone(kind: int, data: bytes) -> None:
    assert digest_matches_data(Event(1, kind, sha384(b"content"), data)) is None


def test_words_for_real_events(vectors: Path) -> None:
    name = "swtpm-rig/out10_ovmf-generic_2026.08ds/tpmlog"
    events = EventLog.from_bytes((vectors / "measurement" / name).read_bytes()).events
    words = [describe(event) for event in events]
    assert "variable SecureBoot: absent" in words
    assert "variable BootOrder: 0000, 0001" in words
    assert any(one.startswith("variable Boot0000: 'BootManagerMenuApp', Fv(7cb8bdc9-") for one in words)
    assert "EFI application kernel" in words
    assert "kernel command line (LoadOptions)" in words
    assert "initrd" in words
    assert "SMBIOS tables" in words


@given(st.integers(0, 2**32 - 1) | st.sampled_from(EventType), st.binary(max_size=300))
def test_any_data_gives_one_short_printable_line(kind: int, data: bytes) -> None:
    event = Event(1, kind, sha384(data), data)
    text = describe(event)
    assert text.isprintable()
    assert len(text) <= MAX_TEXT
    digest_matches_data(event)

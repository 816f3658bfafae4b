from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import WireError
from tdxstack.wire.smbios_measured import HEADER_SIZE, Structure, structures
from tdxstack.wire.tcg import EventLog, EventType

BOOT = Path(__file__).parents[2] / "vectors" / "measure" / "direct-boot"

TEXTS = st.lists(st.binary(min_size=1, max_size=8).filter(lambda text: 0 not in text), max_size=4).map(tuple)
BODIES = st.binary(min_size=0, max_size=60)


@st.composite
def any_structure(draw: st.DrawFn) -> Structure:
    body = draw(BODIES)
    kind = draw(st.integers(0, 126) | st.integers(128, 255))
    head = bytes((kind, HEADER_SIZE + len(body))) + draw(st.binary(min_size=2, max_size=2))
    return Structure(head + body, draw(TEXTS))


@given(st.lists(any_structure(), max_size=5))
def test_round_trip(table: list[Structure]) -> None:
    assert list(structures(b"".join(one.to_bytes() for one in table))) == table


@given(any_structure())
def test_what_is_measured_has_the_structures_size(one: Structure) -> None:
    measured = one.measured()
    assert len(measured) == len(one.to_bytes())
    assert measured[:HEADER_SIZE] == one.formatted[:HEADER_SIZE]


def test_the_measured_form_is_what_the_firmware_hashed() -> None:
    tables = structures((BOOT / "dmi.bin").read_bytes())
    log = EventLog.from_bytes((BOOT / "tpmlog").read_bytes())
    (event,) = [one for one in log.events if one.event_type == EventType.EV_EFI_HANDOFF_TABLES]
    assert hashlib.sha384(b"".join(one.measured() for one in tables)).digest() == event.digest()


def test_identities_are_blanked() -> None:
    head = bytes((1, 27, 0, 1, 1, 2, 3, 4)) + b"U" * 16 + bytes((6, 5, 0))
    measured = Structure(head, (b"maker", b"model", b"version", b"serial", b"sku")).measured()
    assert b"serial" not in measured
    assert b"U" not in measured
    assert b"model\0version\0      \0sku" in measured


@pytest.mark.parametrize("data", [b"\1", b"\1\3\0\0\0\0", b"\1\4\0\0", b"\1\4\0\0abc\0", b"\1\xff\0\0\0\0"])
def test_damage(data: bytes) -> None:
    with pytest.raises(WireError):
        structures(data)

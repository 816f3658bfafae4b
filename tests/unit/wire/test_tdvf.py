"""TDVF metadata: made-up firmware files, each fault of the metadata named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_file import GENERIC_4M, firmware_file
from tdxstack.errors import WireError
from tdxstack.wire.tdvf import Section, SectionType, TdvfMetadata

PLAIN = (
    Section(0x1000, 0x2000, 0xFFFFE000, 0x2000, SectionType.BFV, 1),
    Section(0x0000, 0x1000, 0xFFFFD000, 0x1000, SectionType.CFV, 0),
    Section(0, 0, 0x809000, 0x2000, SectionType.TD_HOB, 0),
)


def with_section(number: int, **changes: int) -> bytes:
    sections = list(PLAIN)
    sections[number] = replace(sections[number], **changes)
    return firmware_file(tuple(sections))


@pytest.mark.parametrize("layout", ["ovmf", "td-shim"])
def test_both_ways_to_the_metadata(layout: str) -> None:
    file = firmware_file(PLAIN, layout=layout)
    metadata = TdvfMetadata.from_bytes(file)
    assert metadata.sections == PLAIN
    assert file[metadata.offset :].startswith(metadata.to_bytes())
    assert [section.name for section in metadata.sections] == ["BFV", "CFV", "TD_HOB"]


def test_the_installed_firmware() -> None:
    path = Path("/usr/share/ovmf/OVMF.fd")
    if not path.is_file():
        pytest.skip("no OVMF installed")
    data = path.read_bytes()
    metadata = TdvfMetadata.from_bytes(data)
    assert data[metadata.offset :].startswith(metadata.to_bytes())
    assert len(metadata.of_type(SectionType.BFV)) == 1


@pytest.mark.parametrize(
    ("file", "field"),
    [
        (b"", "descriptor"),
        (bytes(4096), "descriptor"),
        (with_section(0, data_offset=0x3FF000), "DataOffset"),
        (with_section(0, data_offset=0xFFFFFFFF), "DataOffset"),
        (with_section(0, gpa=0xFFFFE001), "MemoryAddress"),
        (with_section(0, memory_size=0x1FFF), "MemoryAddress"),
        (with_section(0, memory_size=0x1000), "MemoryDataSize"),
        (with_section(0, gpa=0xFFFFFFFFFFFFF000), "MemoryDataSize"),
        (with_section(2, memory_size=1 << 40), "MemoryDataSize"),
        (with_section(0, gpa=1 << 32, memory_size=1 << 28), "MemoryDataSize"),
        (with_section(2, raw_size=16), "RawDataSize"),
        (with_section(1, raw_size=0), "RawDataSize"),
        (with_section(0, type=SectionType.TEMP_MEM, raw_size=0), "BFV"),
        (with_section(2, type=SectionType.TEMP_MEM), "TD_HOB"),
        (with_section(1, gpa=0xFFFFE000), "MemoryAddress"),
        (firmware_file(PLAIN, version=2), "Version"),
        (firmware_file(PLAIN, length=17), "Length"),
        (firmware_file(PLAIN, count=0), "NumberOfSectionEntry"),
        (firmware_file(PLAIN, count=1 << 31), "NumberOfSectionEntry"),
    ],
    ids=range(19),
)
def test_faults_are_refused_and_named(file: bytes, field: str) -> None:
    with pytest.raises(WireError) as caught:
        TdvfMetadata.from_bytes(file)
    assert caught.value.field == field


def test_a_split_code_file_is_refused_with_the_way_out() -> None:
    whole = firmware_file(GENERIC_4M)
    with pytest.raises(WireError, match=r"OVMF\.fd"):
        TdvfMetadata.from_bytes(whole[0x84000:])


@given(st.integers(0, 2**32), st.binary(min_size=1, max_size=64))
def test_damage_raises_nothing_but_wire_errors(where: int, junk: bytes) -> None:
    file = bytearray(firmware_file(PLAIN))
    at = where % len(file)
    file[at : at + len(junk)] = junk
    try:
        TdvfMetadata.from_bytes(bytes(file))
    except WireError as error:
        assert error.offset >= 0

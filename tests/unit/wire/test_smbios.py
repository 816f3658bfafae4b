from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host_trees import dimm, smbios, structure
from tdxstack.errors import WireError
from tdxstack.wire.smbios import MemoryDevice, MemoryType, Slot, SmbiosTable, StructureType, redact, slot_of, walk


def _table(*parts: bytes) -> bytes:
    return b"".join(parts) + structure(127, 0x7FFF, b"", ())


def test_a_dimm_has_its_size_widths_and_place() -> None:
    (device,) = SmbiosTable.from_bytes(_table(dimm(1, "CPU0_DIMM_A1", "NODE 0 CHANNEL 0 DIMM 0", 64))).memory_devices
    assert device.size_mib == 64 * 1024
    assert device.type == MemoryType.DDR5
    assert device.registered
    assert device.ecc_bits == 16
    assert device.part_number == "EX-DDR5-32G"
    assert slot_of(device) == Slot(0, 0, 0)


def test_small_and_empty_and_unknown_sizes() -> None:
    table = _table(dimm(1, "A1", "B", 16), dimm(2, "A2", "B", 0))
    sizes = [device.size_mib for device in SmbiosTable.from_bytes(table).memory_devices]
    assert sizes == [16 * 1024, 0]
    unknown = bytearray(_table(dimm(1, "A1", "B", 16)))
    unknown[0x0C:0x0E] = b"\xff\xff"
    assert SmbiosTable.from_bytes(bytes(unknown)).memory_devices[0].size_mib is None


@pytest.mark.parametrize(
    ("locator", "bank", "slot"),
    [
        ("CPU0_DIMM_A1", "", Slot(0, 0, 0)),
        ("CPU1_DIMM_H2", "", Slot(1, 7, 1)),
        ("P1-DIMMA1", "P0_Node0_Channel0_Dimm0", Slot(0, 0, 0)),
        ("P1-DIMMC2", "", Slot(1, 2, 1)),
        ("DIMM 3", "NODE 1 CHANNEL 5 DIMM 1", Slot(1, 5, 1)),
        ("A1", "", Slot(0, 0, 0)),
        ("B16", "", Slot(1, 7, 1)),
        ("DIMM_B2", "", Slot(0, 1, 1)),
        ("Bottom-Slot", "BANK 0", None),
    ],
)
def test_places_by_vendors_names(locator: str, bank: str, slot: Slot | None) -> None:
    device = MemoryDevice(locator, bank, 1, 80, 64, MemoryType.DDR5, True, 3, "", "")
    assert slot_of(device) == slot


def test_a_whole_server() -> None:
    table = SmbiosTable.from_bytes(smbios(lambda socket, channel, slot: 32))
    assert len(table.memory_devices) == 32
    assert table.system is not None and table.system.product == "TDX Server"
    assert table.firmware is not None and table.firmware.version == "2.4.0"
    assert {slot_of(device) for device in table.memory_devices} == {
        Slot(socket, channel, position) for socket in (0, 1) for channel in range(8) for position in (0, 1)
    }


def test_redaction_keeps_length_and_takes_serial_numbers() -> None:
    data = smbios(lambda socket, channel, slot: 32)
    clean = redact(data)
    assert len(clean) == len(data)
    assert b"SERIAL" in data
    assert b"SERIAL" not in clean
    assert b"ASSET" not in clean
    system = SmbiosTable.from_bytes(clean).of(StructureType.SYSTEM)[0]
    assert system.formatted[8:24] == bytes(16)
    assert SmbiosTable.from_bytes(clean).memory_devices == SmbiosTable.from_bytes(data).memory_devices


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (bytes([17, 3, 0, 0]) + b"\0\0", "length"),
        (bytes([17, 200, 0, 0]) + b"\0\0", "length"),
        (bytes([17, 4, 0, 0]) + b"no end", "strings"),
    ],
)
def test_malformed_tables(data: bytes, field: str) -> None:
    with pytest.raises(WireError) as caught:
        SmbiosTable.from_bytes(data)
    assert caught.value.field == field


def test_a_table_that_never_ends_is_cut() -> None:
    with pytest.raises(WireError) as caught:
        list(walk((bytes([9, 4, 0, 0]) + b"\0\0") * 20000))
    assert caught.value.field == "structures"


@given(st.binary(max_size=400))
def test_arbitrary_bytes_parse_or_raise_wire_errors(data: bytes) -> None:
    try:
        table = SmbiosTable.from_bytes(data)
    except WireError:
        return
    for device in table.memory_devices:
        slot_of(device)
    redact(data)


@given(
    st.binary(max_size=60),
    st.lists(st.text(st.characters(min_codepoint=1, max_codepoint=255), min_size=1, max_size=10), max_size=4),
)
def test_structures_round_trip(body: bytes, strings: list[str]) -> None:
    text = b"".join(one.encode("latin-1") + b"\0" for one in strings) or b"\0"
    data = bytes([200, 4 + len(body), 1, 2]) + body + text + b"\0"
    (found,) = walk(data)
    assert found.formatted[4:] == body
    assert found.strings == tuple(strings)

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import WireError
from tdxstack.wire.efi.variable import GLOBAL_VARIABLE, VariableData, load_option, load_option_description
from tdxstack.wire.efi.varstore import Variable, VariableStore
from varstore_file import blank_store


def blank_firmware() -> bytes:
    return bytes(100) + blank_store(0x4000) + b"code" * 10


VARIABLES = st.builds(
    Variable,
    st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=1, max_size=12),
    st.uuids(),
    st.binary(max_size=50),
    st.integers(0, 255),
    st.binary(min_size=16, max_size=16),
)


@given(st.lists(VARIABLES, max_size=8))
def test_what_is_written_is_read(variables: list[Variable]) -> None:
    firmware = blank_firmware()
    written = VariableStore.from_bytes(firmware).written(firmware, tuple(variables))
    assert len(written) == len(firmware)
    assert written.endswith(b"code" * 10)
    store = VariableStore.from_bytes(written)
    assert store.variables == tuple(variables)
    assert store.written(written, store.variables) == written


def test_deleted_variables_do_not_count() -> None:
    firmware = blank_firmware()
    store = VariableStore.from_bytes(firmware)
    written = bytearray(store.written(firmware, (Variable("PK", GLOBAL_VARIABLE, b"key"),)))
    written[store.offset + 28 + 2] = 0x3C
    assert VariableStore.from_bytes(bytes(written)).variables == ()


def test_too_much_is_refused() -> None:
    firmware = blank_firmware()
    with pytest.raises(WireError, match="do not fit"):
        VariableStore.from_bytes(firmware).written(firmware, (Variable("x", GLOBAL_VARIABLE, bytes(0x4000)),))


@given(st.integers(100, 400), st.binary(min_size=1, max_size=32))
def test_damage_raises_nothing_but_wire_errors(offset: int, junk: bytes) -> None:
    firmware = blank_firmware()
    firmware = VariableStore.from_bytes(firmware).written(firmware, (Variable("PK", GLOBAL_VARIABLE, b"key" * 20),))
    try:
        VariableStore.from_bytes(firmware[:offset] + junk + firmware[offset + len(junk) :])
    except WireError as error:
        assert error.field


@given(st.uuids(), st.text(st.characters(min_codepoint=1, max_codepoint=0xD7FF), max_size=20), st.binary(max_size=30))
def test_variable_data_round_trip(guid: UUID, name: str, value: bytes) -> None:
    data = VariableData(guid, name, value)
    assert VariableData.from_bytes(data.to_bytes()) == data
    with pytest.raises(WireError):
        VariableData.from_bytes(data.to_bytes() + b"\0")


def test_load_option_description() -> None:
    assert load_option_description(load_option("UEFI PXE", b"")) == "UEFI PXE"

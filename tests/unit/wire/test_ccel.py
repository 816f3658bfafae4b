from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import WireError
from tdxstack.wire.ccel import SIZE, CcelTable, CcType

TABLES = st.builds(
    CcelTable,
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(0, 255),
    st.integers(0, 255),
    st.integers(0, 255),
    st.binary(min_size=6, max_size=6),
    st.binary(min_size=8, max_size=8),
    st.integers(0, 2**32 - 1),
    st.binary(min_size=4, max_size=4),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**16 - 1),
)


@given(TABLES)
def test_round_trip(table: CcelTable) -> None:
    data = table.to_bytes()
    assert len(data) == SIZE
    assert CcelTable.from_bytes(data) == table


def test_a_real_table(vectors: Path) -> None:
    data = (vectors / "measurement" / "gce-cos-113" / "ccel_table.dat").read_bytes()
    table = CcelTable.from_bytes(data)
    assert (table.cc_type, table.log_area_minimum_length) == (CcType.TDX, 262144)
    assert table.to_bytes() == data


@pytest.mark.parametrize("offset", [0, 4, 9, 30, 55])
def test_any_changed_byte_is_refused(offset: int) -> None:
    data = bytearray(CcelTable(65536, 0x7F000000).to_bytes())
    data[offset] ^= 1
    with pytest.raises(WireError):
        CcelTable.from_bytes(bytes(data))


def test_short_table() -> None:
    with pytest.raises(WireError, match="56 needed"):
        CcelTable.from_bytes(bytes(55))

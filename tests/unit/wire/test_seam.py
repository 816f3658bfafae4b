from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdx_modules import EMERALD_RAPIDS, MODULE, blob, sigstruct
from tdxstack.errors import WireError
from tdxstack.wire.seam import BlobVersion, SeamSigstruct, TdxBlob, sum16


def test_a_sigstruct_has_its_fields() -> None:
    found = SeamSigstruct.from_bytes(sigstruct())
    assert found.date_text == "2025-02-19"
    assert (found.seam_svn, found.cpus, found.exponent, found.debug) == (0x105, (EMERALD_RAPIDS,), 65537, False)
    assert len(found.signed) == 128 + 2048 - 900
    assert found.to_bytes() == sigstruct()[:2048] or len(found.to_bytes()) == 2048


@pytest.mark.parametrize("version", list(BlobVersion))
def test_blobs_round_trip(version: BlobVersion) -> None:
    made = blob(version)
    data = made.to_bytes()
    assert sum16(data) == 0
    assert TdxBlob.from_bytes(data) == made


@pytest.mark.parametrize("version", list(BlobVersion))
@pytest.mark.parametrize(
    ("at", "value", "field"),
    [(0, b"\x77\x07", "version"), (60, b"\1", "reserved"), (4096 + 2048, b"\1", "reserved"), (4096, b"\0", "HEADER")],
)
def test_damage_is_told_by_field(version: BlobVersion, at: int, value: bytes, field: str) -> None:
    data = bytearray(blob(version).to_bytes())
    data[at : at + len(value)] = value
    if version is BlobVersion.ONE and field != "version":
        data[2:4] = bytes(2)
        data[2:4] = (-sum16(bytes(data)) & 0xFFFF).to_bytes(2, "little")
    with pytest.raises(WireError) as caught:
        TdxBlob.from_bytes(bytes(data))
    assert caught.value.field == field


def test_a_wrong_checksum_is_refused() -> None:
    data = bytearray(blob().to_bytes())
    data[-1] ^= 1
    with pytest.raises(WireError) as caught:
        TdxBlob.from_bytes(bytes(data))
    assert caught.value.field == "checksum"


@pytest.mark.parametrize("data", [b"", bytes(4096), bytes(3 * 4096), b"TDX-BLOB" * 2048])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        TdxBlob.from_bytes(data)


def test_too_many_cpus() -> None:
    data = bytearray(sigstruct())
    data[1024:1028] = (256).to_bytes(4, "little")
    with pytest.raises(WireError) as caught:
        SeamSigstruct.from_bytes(bytes(data))
    assert caught.value.field == "CPUID_TABLE_SIZE"


def test_a_module_too_large_for_the_loader() -> None:
    large = TdxBlob(BlobVersion.ONE, SeamSigstruct.from_bytes(sigstruct()), MODULE * 256).to_bytes()
    with pytest.raises(WireError) as caught:
        TdxBlob.from_bytes(large)
    assert caught.value.field == "module"


def test_a_module_past_the_end_is_told_where_that_is_written() -> None:
    data = bytearray(blob(BlobVersion.ONE).to_bytes())
    data[4:8] = (18 * 4096).to_bytes(4, "little")
    with pytest.raises(WireError) as caught:
        TdxBlob.from_bytes(bytes(data))
    assert (caught.value.field, caught.value.offset) == ("offset_of_module", 4)


@given(st.binary(max_size=64), st.integers(0, 4 * 4096))
def test_damage_anywhere_raises_wire_errors_only(damage: bytes, at: int) -> None:
    data = bytearray(blob(BlobVersion.TWO).to_bytes())
    data[at : at + len(damage)] = damage
    try:
        TdxBlob.from_bytes(bytes(data))
    except WireError:
        return

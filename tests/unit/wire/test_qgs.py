"""QGS messages: layout, round trips, and the error that each fault gets."""

from __future__ import annotations

import contextlib
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import WireError
from tdxstack.wire import qgs
from tdxstack.wire.qgs import (
    GetCollateralRequest,
    GetCollateralResponse,
    GetPlatformInfoRequest,
    GetPlatformInfoResponse,
    GetQuoteRequest,
    GetQuoteResponse,
    Message,
    QgsError,
)

minors = st.integers(min_value=0, max_value=3)
codes = st.integers(min_value=0, max_value=2**32 - 1)
u16 = st.integers(min_value=0, max_value=0xFFFF)
blob = st.binary(max_size=80)
messages = st.one_of(
    st.builds(
        GetQuoteRequest,
        st.binary(min_size=1, max_size=1100),
        st.lists(st.binary(min_size=16, max_size=16), max_size=3).map(tuple),
        minors,
    ),
    st.builds(GetQuoteResponse, blob, blob, codes),
    st.builds(
        GetCollateralRequest, st.binary(min_size=1, max_size=8), st.sampled_from(["platform", "processor"]), minors
    ),
    st.builds(
        GetCollateralResponse, u16, u16, blob, blob, blob, blob, blob, blob, blob, st.just(0), st.sampled_from([0, 1])
    ),
    st.builds(GetPlatformInfoRequest, minors),
    st.builds(GetPlatformInfoResponse, u16, u16, blob, blob, codes),
)


def test_get_quote_request_layout() -> None:
    data = GetQuoteRequest(b"R" * 1024, (qgs.TDX_QE_ID,)).to_bytes()
    assert data[:24] == struct.pack("<HHIIIII", 1, 1, 0, 16 + 8 + 1024 + 16, 0, 1024, 16)
    assert data[24:1048] == b"R" * 1024
    assert data[1048:] == qgs.TDX_QE_ID
    assert qgs.frame(data)[:4] == (1064).to_bytes(4, "big")


@given(messages)
def test_round_trip(message: Message) -> None:
    data = message.to_bytes()
    assert qgs.parse(data) == message
    assert qgs.parse(data).to_bytes() == data
    assert qgs.unframe(qgs.frame(data)) == data


def test_collateral_for_minor_0_has_four_bytes_more() -> None:
    modern = GetCollateralResponse(3, 1, b"1", b"22", b"333", b"4444", b"55555", b"666666", b"7777777")
    old = replace(modern, for_minor=0)
    assert len(old.to_bytes()) == len(modern.to_bytes()) + 4
    assert old.to_bytes()[16:-4] == modern.to_bytes()[16:]


@pytest.mark.parametrize(
    ("offset", "value", "code"),
    [
        (0, 2, QgsError.INVALID_VERSION),
        (4, 9, QgsError.INVALID_TYPE),
        (8, 17, QgsError.INVALID_SIZE),
        (8, 0xFFFFFFFF, QgsError.INVALID_SIZE),
        (12, 5, QgsError.INVALID_CODE),
        (16, 0, QgsError.INVALID_SIZE),
        (16, 0xFFFFFFFF, QgsError.INVALID_SIZE),
        (20, 15, QgsError.INVALID_SIZE),
    ],
)
def test_faults_of_a_request(offset: int, value: int, code: QgsError) -> None:
    data = bytearray(GetQuoteRequest(bytes(1024)).to_bytes())
    struct.pack_into("<H" if offset == 0 else "<I", data, offset, value)
    with pytest.raises(WireError) as caught:
        qgs.parse(bytes(data))
    assert qgs.error_code_of(caught.value) is code


def test_newer_minor_version_is_compatible() -> None:
    data = bytearray(GetPlatformInfoRequest().to_bytes())
    data[2] = 7
    assert qgs.parse(bytes(data)) == GetPlatformInfoRequest(7)


@pytest.mark.parametrize(
    ("request_type", "expected"),
    [
        (0, GetQuoteResponse(error_code=0x12001)),
        (2, GetCollateralResponse(error_code=0x12001)),
        (4, GetPlatformInfoResponse(error_code=0x12001)),
        (77, GetQuoteResponse(error_code=0x12001)),
    ],
)
def test_error_response(request_type: int, expected: Message) -> None:
    assert qgs.parse(qgs.error_response(request_type, QgsError.UNEXPECTED)) == expected


def test_raw_report_is_told_from_a_frame() -> None:
    assert qgs.is_raw_report(bytes.fromhex("81000100"))
    assert qgs.is_raw_report(bytes.fromhex("81010000"))
    assert not qgs.is_raw_report(bytes.fromhex("81020000"))
    assert not qgs.is_raw_report(bytes.fromhex("81000200"))
    assert not qgs.is_raw_report(qgs.frame(GetQuoteRequest(bytes(1024)).to_bytes()))
    assert not qgs.is_raw_report(b"\x81")


@pytest.mark.parametrize("prefix", [b"\0\0\0", b"\0\0\0\x0f", b"\xff\xff\xff\xff"])
def test_frame_length_refused(prefix: bytes) -> None:
    with pytest.raises(WireError):
        qgs.frame_length(prefix)


def test_frame_length_limit() -> None:
    assert qgs.frame_length(b"\0\0\1\0", limit=256) == 256
    with pytest.raises(WireError):
        qgs.frame_length(b"\0\0\1\1", limit=256)


@given(st.binary(max_size=120), messages, st.integers(min_value=0, max_value=130))
def test_only_wire_errors(noise: bytes, message: Message, at: int) -> None:
    for data in (noise, message.to_bytes()[:at] + noise):
        with contextlib.suppress(WireError):
            qgs.parse(data)

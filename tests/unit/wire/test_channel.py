"""Frames of the software TD channel."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import WireError
from tdxstack.wire.channel import MAX_PAYLOAD, Frame, FrameKind, FrameReader, Leaf, request, response

frames = st.builds(
    Frame, st.sampled_from(FrameKind), st.integers(min_value=0, max_value=2**64 - 1), st.binary(max_size=300)
)


def test_layout() -> None:
    assert request(Leaf.MR_REPORT, b"ab").to_bytes() == bytes.fromhex("0e000000 0100 0000 0400000000000000 6162")
    assert response(0xC000010000000001).to_bytes() == bytes.fromhex("0c000000 0200 0000 01000000000100c0")


@given(frames)
def test_round_trip(frame: Frame) -> None:
    assert Frame.from_bytes(frame.to_bytes()) == frame


@given(st.lists(frames, max_size=5), st.integers(min_value=1, max_value=40))
def test_stream_in_pieces(expected: list[Frame], piece: int) -> None:
    stream = b"".join(frame.to_bytes() for frame in expected)
    reader = FrameReader()
    seen: list[Frame] = []
    for start in range(0, len(stream), piece):
        seen += reader.feed(stream[start : start + piece])
    assert seen == expected
    assert reader.pending == 0


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (struct.pack("<IHHQ", 11, 1, 0, 0), "length"),
        (struct.pack("<IHHQ", 12 + MAX_PAYLOAD + 1, 1, 0, 0), "length"),
        (struct.pack("<I", 0xFFFFFFFF), "length"),
        (struct.pack("<IHHQ", 12, 3, 0, 0), "kind"),
        (struct.pack("<IHHQ", 12, 1, 1, 0), "reserved"),
    ],
)
def test_refused(data: bytes, field: str) -> None:
    with pytest.raises(WireError) as caught:
        FrameReader().feed(data)
    assert caught.value.field == field


def test_payload_limit() -> None:
    assert len(request(0, bytes(MAX_PAYLOAD)).to_bytes()) == 16 + MAX_PAYLOAD
    with pytest.raises(WireError):
        request(0, bytes(MAX_PAYLOAD + 1)).to_bytes()


@pytest.mark.parametrize(
    "data", [b"", request(1).to_bytes()[:-1], request(1).to_bytes() * 2, request(1).to_bytes() + b"x"]
)
def test_from_bytes_takes_one_frame(data: bytes) -> None:
    with pytest.raises(WireError):
        Frame.from_bytes(data)


@given(st.binary(max_size=64))
def test_only_wire_errors(data: bytes) -> None:
    with contextlib.suppress(WireError):
        FrameReader().feed(data)

"""TPM commands that extend PCRs."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import WireError
from tdxstack.wire import tpm2
from tdxstack.wire.tcg import Algorithm, Digest
from tdxstack.wire.tpm2 import Extend

OK = struct.pack(">HII", 0x8001, 10, 0)
REFUSED = struct.pack(">HII", 0x8001, 10, 0x101)
AUTHORISATION = struct.pack(">IHBH", 0x40000009, 0, 0, 0)
BANKS = (Digest(Algorithm.SHA256, b"a" * 32), Digest(Algorithm.SHA384, b"b" * 48))


def digests(values: tuple[Digest, ...]) -> bytes:
    return struct.pack(">I", len(values)) + b"".join(struct.pack(">H", alg) + value for alg, value in values)


def command(code: int, body: bytes, tag: int = 0x8002) -> bytes:
    return struct.pack(">HII", tag, 10 + len(body), code) + body


def extend(pcr: int, values: tuple[Digest, ...]) -> bytes:
    body = struct.pack(">II", pcr, len(AUTHORISATION)) + AUTHORISATION + digests(values)
    return command(0x182, body)


def test_extend() -> None:
    assert tpm2.extend_of(extend(7, BANKS), OK) == Extend(7, BANKS)
    assert Extend(7, BANKS).digest(Algorithm.SHA384) == b"b" * 48
    assert Extend(7, BANKS).digest(Algorithm.SHA1) is None


@pytest.mark.parametrize("code", [0x13C, 0x185])
def test_the_tpm_hashes(code: int) -> None:
    body = struct.pack(">II", 9, len(AUTHORISATION)) + AUTHORISATION + b"\0\3abc"
    answer = struct.pack(">I", len(digests(BANKS))) + digests(BANKS) + b"\0\0\1\0\0"
    response = struct.pack(">HII", 0x8002, 10 + len(answer), 0) + answer
    assert tpm2.extend_of(command(code, body), response) == Extend(9, BANKS)


def test_nothing_extended() -> None:
    assert tpm2.extend_of(extend(7, BANKS), REFUSED) is None
    assert tpm2.extend_of(command(0x17E, b""), OK) is None
    assert tpm2.extend_of(command(0x185, struct.pack(">I", 0x40000007)), OK) is None
    assert tpm2.extend_of(extend(7, BANKS), b"") is None


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (command(0x182, b"\0\0"), "pcrHandle"),
        (command(0x182, struct.pack(">I", 1)), "authorizationSize"),
        (command(0x182, struct.pack(">II", 1, 0xFFFFFFFF)), "count"),
        (command(0x182, struct.pack(">III", 1, 0, 17)), "count"),
        (command(0x182, struct.pack(">IIIH", 1, 0, 1, 0x99)), "hashAlg"),
        (command(0x182, struct.pack(">IIIH", 1, 0, 1, 0xC) + b"x" * 47), "digest"),
        (command(0x182, struct.pack(">III", 1, 0, 1)), "hashAlg"),
    ],
)
def test_unreadable(data: bytes, field: str) -> None:
    with pytest.raises(WireError) as caught:
        tpm2.extend_of(data, OK)
    assert caught.value.field == field


def test_message_size() -> None:
    assert tpm2.message_size(OK[:9]) is None
    assert tpm2.message_size(OK) == 10
    for size in (9, 64 * 1024 + 1):
        with pytest.raises(WireError):
            tpm2.message_size(struct.pack(">HII", 0x8001, size, 0))


@given(
    st.integers(min_value=0, max_value=23),
    st.lists(
        st.one_of(
            st.binary(min_size=32, max_size=32).map(lambda value: Digest(Algorithm.SHA256, value)),
            st.binary(min_size=48, max_size=48).map(lambda value: Digest(Algorithm.SHA384, value)),
        ),
        max_size=4,
    ).map(tuple),
)
def test_round_trip(pcr: int, values: tuple[Digest, ...]) -> None:
    assert tpm2.extend_of(extend(pcr, values), OK) == Extend(pcr, values)


@given(st.binary(max_size=80), st.binary(max_size=80), st.sampled_from([0x13C, 0x182, 0x185]))
def test_only_wire_errors(body: bytes, tail: bytes, code: int) -> None:
    with contextlib.suppress(WireError):
        tpm2.extend_of(command(code, body), OK + tail)

"""A short fuzzing of every target: the corpus, and changes to it that hypothesis thinks of."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.targets import CORPUS, NOW, TARGETS, _quote, _verifier
from tdxstack.dcap.appraisal import appraise
from tdxstack.dcap.policy import Policy

#: Nothing that a target is given may take longer, in seconds of processor time.
LIMIT = 5.0


@pytest.mark.parametrize("name", TARGETS)
def test_corpus(name: str) -> None:
    seeds = sorted((CORPUS / name).iterdir())
    assert seeds
    for seed in seeds:
        TARGETS[name](seed.read_bytes())


def test_corpus_is_good() -> None:
    """Else the targets would only look at the first fault."""
    verification = _verifier().verify(_quote(), now=NOW)
    assert (verification.authentic, verification.software, verification.expired) == (True, True, False)
    appraisal = appraise(verification, Policy())
    assert appraisal.accepted, appraisal.failed


@st.composite
def changed(draw: st.DrawFn, name: str) -> bytes:
    data = bytearray(draw(st.sampled_from(sorted((CORPUS / name).iterdir()))).read_bytes())
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["set", "insert", "cut", "repeat", "drop", "number"])):
            case "set" if at < len(data):
                data[at] = draw(st.integers(0, 255))
            case "insert":
                data[at:at] = draw(st.binary(max_size=8))
            case "cut":
                del data[at:]
            case "repeat":
                data[at:at] = data[at : at + draw(st.integers(1, 200))] * draw(st.integers(1, 5))
            case "drop":
                del data[at : at + draw(st.integers(1, 20))]
            case "number":
                data[at : at + 4] = draw(st.sampled_from([b"\xff" * 4, bytes(4), b"9999", b'{"":', b"[[[["]))
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=25)
@given(data=st.data())
def test_changed(name: str, data: st.DataObject) -> None:
    given_bytes = data.draw(changed(name))
    start = time.process_time()
    TARGETS[name](given_bytes)
    assert time.process_time() - start < LIMIT


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"{" * 100_000, b"[" * 1_000_000, b'{"a":' * 200_000, b"9" * 1_000_000, b"\xff" * 70_000],
    ids=["empty", "nul", "braces", "brackets", "objects", "digits", "ff"],
)
def test_hostile(name: str, data: bytes) -> None:
    start = time.process_time()
    TARGETS[name](data)
    assert time.process_time() - start < LIMIT

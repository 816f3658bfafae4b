from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import WireError
from tdxstack.platform.module_rules import (
    Present,
    Release,
    best,
    parse_version,
    read_mapping,
    reasons_against,
    version_text,
)

RELEASE = Release((1, 5, 16), (1, 5, 1), ((1, 5, 0), (2, 0, 0)), 0)
GOOD = Present((1, 5, 8), (2, 0, 0), 0xC06F2, 12)


def test_a_release_that_fits() -> None:
    assert reasons_against(GOOD, RELEASE, (0xC06F0, 0x806F8)) == []


@pytest.mark.parametrize(
    ("present", "words"),
    [
        (Present((2, 0, 5)), "another line"),
        (Present((1, 5, 17)), "older than the running"),
        (Present((1, 5, 0)), "preserves TDs from 1.5.01"),
        (Present((1, 5, 8), (1, 0, 9)), "P-SEAMLDR"),
        (Present((1, 5, 8), None, 0xA06D0), "not signed for this processor"),
        (Present((1, 5, 8), None, None, 0), "table of updates is full"),
    ],
)
def test_reasons(present: Present, words: str) -> None:
    (reason,) = reasons_against(present, RELEASE, (0xC06F0, 0x806F8))
    assert words in reason


def test_a_debug_module_is_refused() -> None:
    assert "debug" in reasons_against(GOOD, RELEASE, debug=True)[0]


def test_the_newest_that_fits_is_chosen() -> None:
    releases = [Release((1, 5, n), (1, 5, 1), ((2, 0, 0),), 0) for n in (5, 9, 16)] + [
        Release((2, 0, 8), (2, 0, 4), (), 0)
    ]
    chosen = best(GOOD, [(one, (0xC06F0,), one.version[2] == 16) for one in releases])
    assert chosen is not None and chosen.version == (1, 5, 9)
    assert best(Present((3, 0, 0)), [(one, (), False) for one in releases]) is None


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"tdx_module_releases": [{"version": "1.5"}]}', '{"tdx_module_releases": 3}']
)
def test_malformed_mappings(text: str) -> None:
    with pytest.raises(WireError):
        read_mapping(text)


@given(st.tuples(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99)))
def test_versions_round_trip(version: tuple[int, int, int]) -> None:
    assert parse_version(version_text(version)) == version

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.dcap.signed_json import MAX_DEPTH, InvalidFault, load_object


def nested(kinds: str, inside: Any = 1) -> Any:
    """``inside`` within as many containers as there are letters: o an object, a an array."""
    for kind in reversed(kinds):
        inside = {"x": inside} if kind == "o" else [inside]
    return inside


def accepted(value: Any) -> bool:
    try:
        load_object(json.dumps(value), "document")
    except InvalidFault:
        return False
    return True


@pytest.mark.parametrize("kinds", ["o" * 40, "oa" * 20, "o" + "a" * 39])
@pytest.mark.parametrize("string", ["", "]", "}", "[", '"]', '\\"}', '\\\\"[{', "]]]]]", '""]""'])
def test_depth_whatever_strings_hold(kinds: str, string: str) -> None:
    """Brackets and quotation marks in strings neither hide depth nor feign it."""
    for depth in (MAX_DEPTH - 2, MAX_DEPTH - 1, MAX_DEPTH, MAX_DEPTH + 1):
        inside = nested(kinds[1:depth])
        for value in (
            {"a": string, "x": inside},
            {"x": inside, "z": string},
            {"a": string, "x": inside, "z": string, string: string},
            {"s": [string] * 50, "x": inside},
        ):
            assert accepted(value) == (depth < MAX_DEPTH), depth


def test_strings_that_close_each_level() -> None:
    """Without regard to strings every level would seem closed as soon as it is opened."""
    for escaped in ("", '"'):
        text = "[1]"
        for _ in range(MAX_DEPTH):
            text = f"[{json.dumps(escaped + ']')}, {text}, {json.dumps('[' + escaped)}]"
        with pytest.raises(InvalidFault):
            load_object(f'{{"x": {text}}}', "document")


@given(
    st.recursive(
        st.text('[]{}"\\a', max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text('[]{}"\\', max_size=3), inner, max_size=3)
        ),
    ),
    st.integers(20, 40),
)
def test_depth_is_that_of_the_value(leaf: Any, levels: int) -> None:
    def filled(value: Any, depth: int) -> int:
        children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return max([depth, *(filled(child, depth + 1) for child in children)]) if children else 0

    value = {"x": nested("a" * levels, leaf)}
    assert accepted(value) == (filled(value, 1) < MAX_DEPTH)

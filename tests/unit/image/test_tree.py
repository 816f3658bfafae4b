"""Trees of files as values."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tdxstack.image.tree import File, Link, read_tree, tree_digest, write_tree

names = st.text("abc", min_size=1, max_size=3)
entries = st.one_of(
    st.builds(File, st.binary(max_size=20), st.sampled_from([0o644, 0o755])),
    st.builds(Link, st.text("x/", max_size=4)),
)


def test_written_and_read_back(tmp_path: Path) -> None:
    tree: dict[str, File | Link] = {
        "etc/a": File(b"1"),
        "usr/bin/b": File(b"#!/bin/sh\n", 0o755),
        "etc/l": Link("/dev/null"),
    }
    write_tree(tmp_path, tree)
    assert read_tree(tmp_path) == tree
    assert set(read_tree(tmp_path, "x/")) == {"x/etc/a", "x/usr/bin/b", "x/etc/l"}


@given(st.dictionaries(names, entries), st.dictionaries(names, entries))
def test_digest_tells_trees_apart(one: dict[str, File | Link], two: dict[str, File | Link]) -> None:
    assert (tree_digest(one) == tree_digest(two)) == (one == two)
    assert tree_digest(one) == tree_digest(dict(reversed(one.items())))


def test_digest_sees_kind_and_mode() -> None:
    digests = {tree_digest({"a": e}) for e in (File(b"x"), File(b"x", 0o755), Link("x"), File(b"link x"))}
    assert len(digests) == 4

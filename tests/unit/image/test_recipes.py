"""Recipes are data that cannot be wrong unseen."""

from __future__ import annotations

import pytest

from tdxstack.errors import UsageError
from tdxstack.image.recipes import DEFAULT_RECIPE, load_recipe, parse_recipe, parse_size, recipe_names

MINIMAL = {
    "title": "x",
    "distribution": "debian",
    "release": "trixie",
    "packages": ["systemd"],
    "ssh_unit": "ssh.service",
    "size": "1G",
    "cmdline": "root=PARTLABEL=root",
}


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_and_names_what_a_guest_needs(name: str) -> None:
    recipe = load_recipe(name)
    assert {"openssh-server", "kmod", recipe.python.removeprefix("/usr/bin/")} <= set(recipe.packages)
    assert "root=PARTLABEL=root" in recipe.cmdline.split()
    assert "virtio_blk" in recipe.initrd_first
    assert {"cuse", "tsm"} <= set(recipe.modules)
    assert not {recipe.ssh_unit, "systemd-networkd.service", "tdxstack-guest.service"} & set(recipe.masked)


def test_the_default_is_there() -> None:
    assert DEFAULT_RECIPE in recipe_names()


def test_unknown_recipe_names_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe("../etc/passwd")
    assert DEFAULT_RECIPE in str(caught.value.hint)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pakages": []}, "unknown key pakages"),
        ({"packages": "systemd"}, "packages must be a list"),
        ({"packages": [1]}, "packages must be a list"),
        ({"title": 3}, "title must be a string"),
        ({"size": "big"}, "not an image size"),
    ],
)
def test_wrong_recipe_says_what(change: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_recipe("x", MINIMAL | change)


def test_missing_key_says_which() -> None:
    with pytest.raises(UsageError, match="cmdline"):
        parse_recipe("x", {key: value for key, value in MINIMAL.items() if key != "cmdline"})


@pytest.mark.parametrize(("text", "size"), [("2G", 2 << 30), ("1536m", 1536 << 20), ("1T", 1 << 40)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "2", "-1G", "2GB", "1M", "9999999T", "0x10G", "1.5G"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(UsageError):
        parse_size(text)

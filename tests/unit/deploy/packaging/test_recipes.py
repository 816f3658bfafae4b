"""Recipes of packages: all that are shipped, and what is refused."""

from __future__ import annotations

import copy
import json
import tomllib
from typing import Any

import pytest

from tdxstack.cli.main import main
from tdxstack.deploy.packaging.job import RPM_ROOT, decide, described, targets
from tdxstack.deploy.packaging.kconfig import parse_config, parse_fragment, unmet
from tdxstack.deploy.packaging.recipe import (
    FRAGMENTS,
    RECIPES,
    SCRIPTS,
    Archive,
    Format,
    World,
    components,
    load,
    parse,
    worlds,
)
from tdxstack.errors import PlatformMissing, UsageError

PAPER = {
    World.TDX15: "dcap grub2 guest-kernel host-kernel libvirt migtd qemu shim tdvf tdvf-vtpm vtpm-td",
    World.UPSTREAM: "dcap grub2 guest-kernel host-kernel libvirt migtd qemu shim tdvf vtpm-td",
}
EVERY = [(name, world) for name in components() for world in worlds(name)]


@pytest.mark.parametrize("world", World)
def test_every_component_of_the_paper_has_a_recipe(world: World) -> None:
    assert " ".join(name for name in components() if world in worlds(name)) == PAPER[world]


@pytest.mark.parametrize(("name", "world"), EVERY)
def test_every_recipe_is_well_formed_and_pinned(name: str, world: World) -> None:
    recipe = load(name, world)
    assert set(recipe.formats) == {Format.DEB, Format.RPM}
    for source in recipe.sources:
        if isinstance(source, Archive):
            assert source.sha256 or source.sums, source.name
        else:
            assert len(source.commit) == 40
    assert [source.name for source in recipe.unpinned()] in ([], ["linux-6.2.16.tar.xz"])


@pytest.mark.parametrize(("name", "world"), EVERY)
@pytest.mark.parametrize("form", Format)
def test_every_recipe_makes_a_job(name: str, world: World, form: Format) -> None:
    job = decide(load(name, world), formats=(form,))
    assert json.dumps(described(job))
    assert job.target.format is form or job.recipe.portable
    assert len(job.key()) == 64


def test_nothing_is_left_over() -> None:
    recipes = [load(name, world) for name, world in EVERY]
    packagings = [one for recipe in recipes for one in recipe.formats.values()]
    used = {one.script for one in packagings} | {one.configure for one in packagings if one.configure}
    assert {path.name for path in SCRIPTS.iterdir()} == used
    assert {path.name for path in FRAGMENTS.iterdir()} == {name for recipe in recipes for name in recipe.config}


def test_the_kernels_of_the_two_sides_are_two_kernels() -> None:
    for world in World:
        host, guest = load("host-kernel", world), load("guest-kernel", world)
        assert host.package != guest.package
        assert (host.side, guest.side) == ("host", "guest")
        assert host.config != guest.config


def _document(name: str = "shim") -> dict[str, Any]:
    return copy.deepcopy(tomllib.loads((RECIPES / f"{name}.toml").read_text()))


def _refused(document: dict[str, Any], words: str, name: str = "shim") -> None:
    with pytest.raises(UsageError, match=words):
        parse(name, World.UPSTREAM, document)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("version", "latest", "version"),
        ("version", 16, "version must be of type str"),
        ("release", "", "release"),
        ("package", "../x", "package"),
        ("epoch", -1, "epoch"),
        ("epoch", True, "epoch"),
        ("side", "both", "side"),
        ("architecture", "riscv", "architecture"),
        ("colour", "red", "unknown key colour"),
        ("config", ["none.config"], "no configuration fragment"),
        ("patches", [{"source": "elsewhere", "series": "s"}], "no source"),
        ("patches", [{"source": "shim.tar.bz2"}], "either series or glob"),
        ("patches", [{"source": "shim.tar.bz2", "series": "../../etc/passwd"}], "leaves the tree"),
        ("environment", {"A": 1}, "strings"),
        ("title", "two\nlines", "one line"),
        ("sources", [], "no source"),
        ("sources", "x", "sources must be of type list"),
        ("deb", {"script": "missing.sh"}, "no script"),
        ("deb", {"script": "../shim.sh"}, "script"),
        ("deb", {"script": "shim.sh", "requires": ["a; rm -rf /"]}, "is no package"),
    ],
)
def test_a_wrong_key_is_named(key: str, value: object, words: str) -> None:
    document = _document()
    document["world"]["upstream"][key] = value
    _refused(document, words)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("sha256", "00", "sha256"),
        ("sha256", None, "sha256 is missing"),
        ("urls", ["http://plain.example/x"], "https"),
        ("urls", [], "urls"),
        ("unpack", "/etc", "leaves the tree"),
        ("name", "a/b", "name"),
    ],
)
def test_a_source_that_is_not_pinned_well(key: str, value: object, words: str) -> None:
    document = _document()
    source = document["world"]["upstream"]["sources"][0]
    source.pop(key) if value is None else source.update({key: value})
    _refused(document, words)


def test_a_commit_is_whole() -> None:
    document = _document()
    entry = {"name": "x", "git": "https://example.org/x.git", "commit": "main"}
    document["world"]["upstream"]["sources"] = [entry]
    _refused(document, "commit")


def test_formats_and_targets_that_do_not_go_together() -> None:
    with pytest.raises(UsageError, match=r"builds \.deb") as refused:
        decide(load("qemu", World.UPSTREAM), "debian-13", (Format.RPM,))
    assert "centos-9" in (refused.value.hint or "")
    with pytest.raises(UsageError, match="no target"):
        decide(load("shim", World.UPSTREAM), "slackware")
    with pytest.raises(UsageError, match=r"builds \.deb"):
        decide(load("host-kernel", World.UPSTREAM), None, (Format.DEB, Format.RPM))
    both = decide(load("tdvf", World.UPSTREAM), None, (Format.DEB, Format.RPM))
    assert (both.target.name, "rpm" in both.root_packages()) == ("debian-13", True)
    rhel = decide(load("qemu", World.TDX15), None, (Format.RPM,))
    assert rhel.target.name == "rhel-8"
    assert set(RPM_ROOT) <= set(rhel.root_packages())


def test_a_component_that_the_world_has_not(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PlatformMissing):
        load("tdvf-vtpm", World.UPSTREAM)
    assert main(["build", "package", "tdvf-vtpm", "--dry-run"]) == 4
    assert "--world tdx15" in capsys.readouterr().err


def test_the_key_follows_what_the_package_is_made_from() -> None:
    recipe = load("host-kernel", World.TDX15)
    plain = decide(recipe)
    keys = {
        plain.key(),
        decide(recipe, "ubuntu-24.04").key(),
        decide(recipe, None, (Format.RPM,)).key(),
        decide(recipe, pins={"linux-6.2.16.tar.xz": "0" * 64}).key(),
        decide(load("host-kernel", World.UPSTREAM)).key(),
    }
    assert len(keys) == 5
    assert plain.key() == decide(load("host-kernel", World.TDX15)).key()


def test_every_target_names_its_root() -> None:
    wanted = {"debian-12", "debian-13", "ubuntu-22.04", "ubuntu-24.04", "rhel-8", "rhel-9", "fedora"}
    assert wanted <= set(targets())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("CONFIG_A=y\nCONFIG_A=m\n", "twice"),
        ("CONFIG_A = y\n", "no kernel option"),
        ("A=y\n", "no kernel option"),
        ("CONFIG_A=maybe\n", "no kernel option"),
        ('CONFIG_A="open\n', "no kernel option"),
    ],
)
def test_a_fragment_that_is_none(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_fragment("x.config", text)


def test_options_that_did_not_come_out() -> None:
    wanted = parse_fragment("x", '# why\nCONFIG_A=y\nCONFIG_B=m\nCONFIG_C="x y"\n# CONFIG_D is not set\nCONFIG_E=m\n')
    config = parse_config('# comment\nCONFIG_A=y\nCONFIG_B=y\nCONFIG_C="x y"\nCONFIG_D=y\n# CONFIG_E is not set\n')
    assert unmet(wanted, config) == ["CONFIG_D: wanted n, is y", "CONFIG_E: wanted m, is n"]

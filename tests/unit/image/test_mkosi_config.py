"""What mkosi is told, for each recipe and option."""

from __future__ import annotations

import configparser

import pytest

from tdxstack.errors import UsageError
from tdxstack.image.mkosi_config import kernel_command_line, render
from tdxstack.image.options import BootLayout, BuildOptions
from tdxstack.image.recipes import load_recipe, recipe_names
from tdxstack.image.tree import File, Link, tree_digest

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOIyvxPFxBjz me@here"


def rendered(recipe: str = "debian-13", mirror: str | None = None, **options: object) -> dict[str, File | Link]:
    return render(load_recipe(recipe), BuildOptions(**options), b"bundle", mirror)  # type: ignore[arg-type]


def content(tree: dict[str, File | Link], name: str) -> str:
    entry = tree[name]
    assert isinstance(entry, File)
    return entry.data.decode()


def settings(tree: dict[str, File | Link], name: str = "mkosi.conf") -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[method-assign,assignment]
    parser.read_string(content(tree, name))
    return parser


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_renders(name: str) -> None:
    recipe, tree = load_recipe(name), rendered(name, "http://mirror.example/x")
    conf = settings(tree)
    assert conf["Distribution"]["Distribution"] == recipe.distribution
    assert conf["Distribution"]["Release"] == recipe.release
    assert conf["Content"]["Packages"].split() == list(recipe.packages)
    assert tree[f"mkosi.extra/etc/systemd/system/{recipe.masked[0]}"] == Link("/dev/null")
    assert "RootPassword" not in conf["Content"]


def test_mirror_is_the_only_one_asked() -> None:
    assert (
        settings(rendered(mirror="http://mirror.example/x"))["Distribution"]["LocalMirror"]
        == "http://mirror.example/x"
    )
    assert "LocalMirror" not in settings(rendered())["Distribution"]


def test_options_reach_the_configuration() -> None:
    tree = rendered(hostname="box.example", size=3 << 30, packages=("htop",), user="kim", ssh_key=KEY)
    conf = settings(tree)
    assert conf["Content"]["Hostname"] == "box.example"
    assert {"htop", "sudo"} <= set(conf["Content"]["Packages"].split())
    assert settings(tree, "mkosi.repart/10-root.conf")["Partition"]["SizeMinBytes"] == "3072M"
    script = content(tree, "mkosi.postinst.chroot")
    assert "useradd --create-home --shell /bin/bash kim" in script
    assert f"'{KEY}' >/home/kim/.ssh/authorized_keys" in script


def test_a_local_repository_is_bound_and_a_remote_one_is_a_source() -> None:
    local = rendered(guest_repo="/some/folder")
    assert settings(local)["Content"]["PackageDirectories"] == "/repository"
    remote = rendered(guest_repo="http://repo.example/guest")
    assert "PackageDirectories" not in settings(remote)["Content"]
    source = content(remote, "mkosi.sandbox/etc/apt/sources.list.d/tdxstack-guest.sources")
    assert "URIs: http://repo.example/guest\n" in source
    assert '"repo.example"' in content(remote, "mkosi.sandbox/etc/apt/preferences.d/tdxstack-guest")


def test_only_an_image_that_boots_by_itself_has_an_esp() -> None:
    assert "mkosi.repart/00-esp.conf" not in rendered()
    for boot in (BootLayout.UKI, BootLayout.GRUB):
        assert settings(rendered(boot=boot), "mkosi.repart/00-esp.conf")["Partition"]["Type"] == "esp"


def test_what_changes_the_image_changes_the_tree() -> None:
    variants = [rendered(), rendered(hostname="a"), rendered(ssh_key=KEY), rendered(size=1 << 30)]
    variants += [render(load_recipe("debian-13"), BuildOptions(), b"other bundle", None)]
    assert len({tree_digest(tree) for tree in variants}) == len(variants)


def test_ima_is_asked_for_on_the_command_line_and_by_a_policy() -> None:
    plain = BuildOptions()
    recipe = load_recipe("debian-13")
    assert not plain.measures_by_ima
    for ima, words in (("on", "ima_hash=sha384"), ("tcb", "ima_hash=sha384 ima_policy=tcb")):
        options = BuildOptions(ima=ima)
        assert options.measures_by_ima
        assert kernel_command_line(recipe, options) == f"{recipe.cmdline} {words}"
    policy = "# rules\nmeasure func=BPRM_CHECK mask=MAY_EXEC\n"
    own = BuildOptions(ima_policy=policy)
    assert kernel_command_line(recipe, own).endswith(" ima_hash=sha384")
    assert content(rendered(ima_policy=policy), "mkosi.extra/etc/ima/ima-policy") == policy
    assert "mkosi.extra/etc/ima/ima-policy" not in rendered()
    for wrong in ({"ima": "all"}, {"ima_policy": "# nothing\n"}, {"ima_policy": "watch func=X\n"}):
        with pytest.raises(UsageError, match="IMA policy"):
            BuildOptions(**wrong)  # type: ignore[arg-type]


def test_command_line_is_the_recipe_s_and_more() -> None:
    recipe = load_recipe("debian-13")
    assert kernel_command_line(recipe, BuildOptions()) == recipe.cmdline
    assert kernel_command_line(recipe, BuildOptions(extra_cmdline="quiet")) == f"{recipe.cmdline} quiet"


@pytest.mark.parametrize(
    "options",
    [
        {"hostname": "-x"},
        {"hostname": "a b"},
        {"hostname": "x;reboot"},
        {"user": "root"},
        {"user": "a;b"},
        {"ssh_key": "-----BEGIN OPENSSH PRIVATE KEY-----"},
        {"ssh_key": "ssh-ed25519 AAAA' ; reboot"},
        {"packages": ("a b",)},
        {"extra_cmdline": "a\nb"},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        BuildOptions(**options)  # type: ignore[arg-type]


def test_a_key_s_comment_is_quoted() -> None:
    script = content(rendered(ssh_key="ssh-ed25519 AAAA it's; reboot"), "mkosi.postinst.chroot")
    assert """'ssh-ed25519 AAAA it'"'"'s; reboot' >/root/.ssh""" in script

"""``tdxctl build package --dry-run`` and ``build list``; packaging files; roots as commands."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tdxstack.cli.main import main
from tdxstack.deploy.packaging import make_deb, make_rpm
from tdxstack.deploy.packaging.build import Settings, manifest_path, present
from tdxstack.deploy.packaging.job import Job, decide
from tdxstack.deploy.packaging.recipe import Format, Packaging, World, components, load, worlds
from tdxstack.deploy.packaging.roots import ContainerRoot, MkosiRoot, MmdebstrapRoot, open_root


@pytest.mark.parametrize("world", ["tdx15", "1.5", "upstream"])
@pytest.mark.parametrize("form", ["deb", "rpm"])
def test_all_as_a_plan(world: str, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "out"
    argv = ["build", "package", "all", "--world", world, "--format", form, "--output", str(place), "--dry-run"]
    assert main([*argv, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "tdxstack/package-plan/v1"
    real = World.UPSTREAM if world == "upstream" else World.TDX15
    assert [one["component"] for one in document["packages"]] == [n for n in components() if real in worlds(n)]
    assert {one["repository"] for one in document["packages"]} == {"host_repo", "guest_repo"}
    for one in document["packages"]:
        assert one["commands"]
        assert one["sources"]
        assert one["done"] is False
    assert not place.exists()
    assert main(argv) == 0
    shown = capsys.readouterr().out
    assert ("NOT PINNED" in shown) is (real is World.TDX15)


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["nothing"], 2, "no package"),
        (["all", "shim"], 2, "all is all"),
        (["shim", "--pin", "x"], 2, "SOURCE=SHA256"),
        (["shim", "--pin", "x=00"], 2, "no SHA-256"),
        (["shim", "--pin", f"x={'0' * 64}"], 2, "no such source"),
        (["shim", "--world", "2.0"], 2, "invalid choice"),
        (["shim", "--jobs", "-1"], 2, "negative"),
        (["shim", "--unsigned", "--sign", "K"], 2, "exclude"),
    ],
)
def test_usage(argv: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "package", *argv, "--dry-run"]) == code
    assert words in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="builds need root")
def test_a_source_without_a_digest_is_not_built(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["build", "package", "host-kernel", "--world", "tdx15", "--output", str(tmp_path), "--until", "sources"]
    assert main(argv) == 2
    assert "--pin linux-6.2.16.tar.xz=SHA256" in capsys.readouterr().err


def test_the_listing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "list", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {one["world"] for one in document["packages"]} == {"tdx15", "upstream"}
    assert {one["format"] for one in document["targets"]} == {"deb", "rpm"}
    assert main(["build", "list"]) == 0
    assert "intel-mvp-tdx-qemu-kvm" in capsys.readouterr().out


def _job(name: str = "shim", form: Format = Format.DEB, world: World = World.UPSTREAM) -> Job:
    return decide(load(name, world), formats=(form,))


def test_what_makes_the_packages() -> None:
    recipe = load("shim", World.UPSTREAM)
    some = Packaging("shim.sh", depends=("a (>= 1)", "b | c"), provides=("d",), conflicts=("e",), replaces=("f",))
    recipe = replace(recipe, formats={Format.DEB: some, Format.RPM: some})
    control = make_deb.control(recipe)
    assert "Package: tdxstack-shim\nVersion: 16.1-1\nArchitecture: amd64\n" in control
    assert "Depends: a (>= 1), b | c\nProvides: d\nConflicts: e\nReplaces: f\n" in control
    spec = make_rpm.spec(recipe)
    assert "Name: tdxstack-shim\nVersion: 16.1\nRelease: 1\n" in spec
    assert "Requires: a (>= 1)\nRequires: b | c\nProvides: d\nConflicts: e\nObsoletes: f\n" in spec
    assert "AutoReqProv: no" in spec
    assert "AutoReqProv" not in make_rpm.spec(load("qemu", World.UPSTREAM))


def test_roots_as_commands(tmp_path: Path) -> None:
    debian = open_root(_job("qemu"), tmp_path, "chroot")
    assert isinstance(debian, MmdebstrapRoot)
    making = debian.making()[0]
    assert {"mmdebstrap", "--variant=buildd", "trixie"} <= set(making)
    assert any(word.startswith("--include=") and "libslirp-dev" in word for word in making)
    jammy = open_root(_job("qemu", world=World.TDX15), tmp_path, "chroot").making()[0]
    assert {"--components=main,universe", "jammy"} <= set(jammy)
    offline = debian.wrapped(["sh", "x"], {"A": "b c"}, network=False)
    assert offline[-8:-4] == ["unshare", "--net", "env", "-i"]
    assert offline[-3:] == ["A=b c", "sh", "x"]
    assert "--net" not in debian.wrapped(["sh"], {}, network=True)

    centos = open_root(_job("qemu", Format.RPM), tmp_path, "chroot")
    assert isinstance(centos, MkosiRoot)
    configuration = centos.configuration()
    assert "Distribution=centos\nRelease=9\n" in configuration
    assert "        rpm-build\n" in configuration

    for engine in ("docker", "podman"):
        container = open_root(_job("qemu", Format.RPM, World.TDX15), tmp_path, engine)
        assert isinstance(container, ContainerRoot)
        start, commit, remove = container.making()
        assert start[:2] == [engine, "run"]
        assert "registry.access.redhat.com/ubi8/ubi" in start
        assert (commit[1], remove[1]) == ("commit", "rm")
        run = container.wrapped(["sh", "x"], {"A": "b c"}, network=False)
        assert run[:4] == [engine, "run", "--rm", "--network=none"]
        assert run[-3:] == [container.image, "sh", "x"]


def test_what_is_there_is_seen_and_what_changed_is_not(tmp_path: Path) -> None:
    job, settings = _job(), Settings(tmp_path)
    assert present(job, settings) is None
    path = manifest_path(job, settings)
    path.parent.mkdir()
    for text in ("", "{", "[]", "{}", '{"files": 1}', '{"files": [{"path": "x"}]}'):
        path.write_text(text)
        assert present(job, settings) is None
    package = tmp_path / "guest_repo/x.deb"
    package.parent.mkdir()
    package.write_bytes(b"")
    digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    manifest = {"key": job.key(), "files": [{"path": "guest_repo/x.deb", "sha256": digest}]}
    path.write_text(json.dumps(manifest))
    assert present(job, settings) == manifest
    path.write_text(json.dumps({**manifest, "key": "0"}))
    assert present(job, settings) is None
    path.write_text(json.dumps(manifest))
    package.write_bytes(b"changed")
    assert present(job, settings) is None

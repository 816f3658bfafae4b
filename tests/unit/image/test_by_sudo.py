"""Images for a person who is not root, against a stand-in for sudo."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tdxstack.errors import NetworkFault, SystemFault
from tdxstack.image import by_sudo
from tdxstack.system import paths

pytestmark = pytest.mark.processes


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Steps that were told; the home is a new one, and PATH has nothing but the stand-in."""
    monkeypatch.setenv("TDXSTACK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    (tmp_path / "bin").mkdir()
    return []


def _sudo(folder: Path, status: int) -> None:
    program = folder / "bin" / "sudo"
    program.write_text(f'#!/bin/sh\necho "$*" >{folder}/asked\nexit {status}\n')
    program.chmod(0o755)


def test_root_is_asked_for_the_same_home(tmp_path: Path, said: list[str]) -> None:
    _sudo(tmp_path, 0)
    by_sudo.build("debian-13", said.append)
    asked = (tmp_path / "asked").read_text()
    assert asked.startswith(f"env TDXSTACK_HOME={tmp_path}/home TDXSTACK_CACHE={tmp_path}/home/cache ")
    assert "https_proxy=http://proxy.example:3128" in asked
    assert asked.endswith("-m tdxstack.cli image build debian-13\n")
    assert said == ["building the guest image needs root: sudo may ask for your password"]
    assert (tmp_path / "home/images").is_dir()
    assert (tmp_path / "home/cache/logs").is_dir()


@pytest.mark.parametrize(("status", "kind"), [(1, SystemFault), (5, NetworkFault), (130, SystemFault)])
def test_its_failure_is_ours(tmp_path: Path, said: list[str], status: int, kind: type[SystemFault]) -> None:
    _sudo(tmp_path, status)
    with pytest.raises(kind, match="could not be built") as caught:
        by_sudo.build("debian-13", said.append)
    assert caught.value.hint


def test_without_sudo(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tdxstack.system.process.shutil.which", lambda *_, **__: None)
    with pytest.raises(SystemFault, match="there is no sudo") as caught:
        by_sudo.build("debian-13", said.append)
    assert "-m tdxstack.cli image build debian-13" in (caught.value.hint or "")
    assert said == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_image_is_its_owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TDXSTACK_HOME", str(tmp_path))
    images = paths.images()
    os.chown(images, 1234, 1235)
    made = images / "new"
    made.mkdir()
    (made / "disk.raw").touch()
    by_sudo.hand_over(made, images)
    for path in (made, made / "disk.raw"):
        assert (path.stat().st_uid, path.stat().st_gid) == (1234, 1235)

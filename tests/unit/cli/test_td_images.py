from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tdxstack.cli.commands.td_images import resolve
from tdxstack.errors import UsageError
from tdxstack.image import store

IMAGE = SimpleNamespace(
    name="debian-13",
    disk=Path("/i/disk.raw"),
    kernel=Path("/i/k"),
    initrd=Path("/i/r"),
    default_cmdline="root=x",
    boot="direct",
    manifest={"ima": False},
)


@pytest.fixture(autouse=True)
def _one_image(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)

    def find(name: str, *, boot: str) -> object:
        assert boot in ("direct", "grub", "uki")
        if name != "debian-13":
            raise UsageError(f"no image {name!r}")
        return IMAGE

    monkeypatch.setattr(store, "find_image", find)


def test_a_name_brings_the_files_of_a_direct_boot() -> None:
    assert resolve({"name": "a", "image": "debian-13"}) == {
        "name": "a",
        "image": "/i/disk.raw",
        "boot": "direct",
        "kernel": "/i/k",
        "initrd": "/i/r",
        "cmdline": "root=x",
    }


def test_what_was_given_stands() -> None:
    assert resolve({"image": "debian-13", "cmdline": "mine"})["cmdline"] == "mine"
    own = resolve({"image": "debian-13", "kernel": "/my/kernel"})
    assert "initrd" not in own
    assert resolve({"image": "debian-13", "boot": "uki", "kernel": "/my/uki"})["kernel"] == "/my/uki"


@pytest.mark.parametrize("boot", ["uki", "grub"])
def test_an_image_without_a_boot_loader(boot: str) -> None:
    with pytest.raises(UsageError, match="nothing on its disk that boots"):
        resolve({"image": "debian-13", "boot": boot})


def test_paths_stay_paths(tmp_path: Path) -> None:
    (tmp_path / "disk.img").touch()
    for name in ("./x", "/x", "disk.img"):
        assert resolve({"image": name}) == {"image": name}
    with pytest.raises(UsageError, match="no image 'nothing'"):
        resolve({"image": "nothing"})

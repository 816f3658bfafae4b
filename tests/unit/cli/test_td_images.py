from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tdxstack.cli.commands.td_images import NAMED, resolve
from tdxstack.cli.main import main
from tdxstack.errors import UsageError
from tdxstack.image import firmware, store
from tdxstack.vm import spec_file

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


def test_names_in_a_file_of_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A TOML file may name an image and a firmware, from any directory."""
    for name in ("k", "r", "disk.raw"):
        (tmp_path / name).touch()
    file = tmp_path / "specs" / "web.toml"
    file.parent.mkdir()
    file.write_text('image = "debian-13"\nfirmware = "fw.fd"\nkernel = "../k"\n')
    (file.parent / "fw.fd").touch()
    assert spec_file.read_settings(file, NAMED) == {
        "name": "web",
        "image": "debian-13",
        "firmware": str(file.parent / "fw.fd"),
        "kernel": str(file.parent / ".." / "k"),
    }
    files = {"disk": tmp_path / "disk.raw", "kernel": tmp_path / "k", "initrd": tmp_path / "r"}
    with pytest.MonkeyPatch.context() as patch:
        for field, path in files.items():
            patch.setattr(IMAGE, field, path)
        assert main(["td", "create", "--spec", str(file), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["image"] == str(tmp_path / "disk.raw")


def test_a_directory_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "debian-13").mkdir()
    assert resolve({"image": "debian-13"})["image"] == "/i/disk.raw"


def test_another_image_for_a_td(tmp_path: Path) -> None:
    """`td set --image NAME` keeps the way that the TD boots."""
    assert resolve({"image": "debian-13"}, boot="direct")["kernel"] == "/i/k"
    with pytest.raises(UsageError, match="nothing on its disk that boots"):
        resolve({"image": "debian-13"}, boot="uki")


@pytest.mark.parametrize("verb", [["create", "web"], ["set", "demo"]])
def test_a_dry_run_downloads_no_firmware(
    verb: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a dry run downloads")

    monkeypatch.setattr(firmware, "named_firmware", refuse)
    kernel = tmp_path / "k"
    kernel.touch()
    assert main(["td", "create", "demo", "--kernel", str(kernel)]) == 0
    capsys.readouterr()
    words = ["--kernel", str(kernel), "--firmware", "inteltdx", "--dry-run"]
    assert main(["td", *verb, *words, "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["firmware"] == "inteltdx"
    assert "would download the firmware inteltdx" in said.err
    assert main(["td", *verb, *words]) == 0
    assert 'firmware = "inteltdx"' in capsys.readouterr().out

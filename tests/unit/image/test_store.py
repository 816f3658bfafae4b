"""The store shows whole images only, and deletes none that is in use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tdxstack.errors import StateError, SystemFault, UsageError
from tdxstack.image.store import delete_image, find_by_key, find_image, list_images
from tdxstack.system import paths


def make(name: str, created: str = "2026-01-01T00:00:00Z", key: str = "k", boot: str = "direct") -> Path:
    folder = paths.images() / name
    folder.mkdir()
    for part in ("disk.raw", "vmlinuz", "initrd.img"):
        (folder / part).write_bytes(b"x")
    manifest = {
        "recipe": name.rpartition("-")[0],
        "boot": boot,
        "key": key,
        "created": created,
        "cmdline": "root=PARTLABEL=root",
        "files": {
            "disk": {"name": "disk.raw"},
            "kernel": {"name": "vmlinuz", "sha256": "aa"},
            "initrd": {"name": "initrd.img", "sha256": "bb"},
        },
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_empty() -> None:
    assert list_images() == []
    with pytest.raises(UsageError, match="no image"):
        find_image("debian-13")


def test_newest_of_a_recipe() -> None:
    make("debian-13-aaa", "2026-01-02T00:00:00Z", "one")
    make("debian-13-bbb", "2026-01-01T00:00:00Z", "two")
    assert find_image("debian-13").name == "debian-13-aaa"
    assert find_image("debian-13-bbb").key == "two"
    assert [image.name for image in list_images()] == ["debian-13-bbb", "debian-13-aaa"]
    found = find_by_key("two")
    assert found is not None
    assert found.name == "debian-13-bbb"
    assert find_by_key("three") is None


def test_of_a_recipes_images_the_newest_that_was_made_for_the_boot() -> None:
    make("debian-13-aaa", "2026-01-01T00:00:00Z")
    make("debian-13-bbb", "2026-01-02T00:00:00Z", boot="grub")
    assert find_image("debian-13").boot == "grub"
    assert find_image("debian-13", boot="direct").boot == "direct"
    assert find_image("debian-13", boot="grub").boot == "grub"
    assert find_image("debian-13-bbb", boot="direct").boot == "grub", "an image's own name means it"
    assert find_image("debian-13", boot="uki").boot == "grub", "the newest, where none was made for it"


def test_unfinished_and_damaged_are_not_listed() -> None:
    make(".build-debian-13-99")
    (make("debian-13-ccc") / "vmlinuz").unlink()
    (make("debian-13-ddd") / "manifest.json").write_text("{")
    assert list_images() == []
    for name in ("debian-13-ccc", "debian-13-ddd"):
        with pytest.raises(SystemFault) as caught:
            find_image(name)
        assert "tdxctl image delete" in str(caught.value.hint)


def test_delete() -> None:
    folder = make("debian-13-aaa")
    assert delete_image("debian-13-aaa") == folder
    assert not list(paths.images().iterdir())


@pytest.mark.parametrize("name", ["", "..", "../images", ".build-debian-13-99", "nothing"])
def test_only_images_are_deleted(name: str) -> None:
    make(".build-debian-13-99")
    with pytest.raises(UsageError):
        delete_image(name)
    assert (paths.images() / ".build-debian-13-99").is_dir()


def test_an_image_in_use_stays() -> None:
    folder = make("debian-13-aaa")
    record = paths.tds() / "demo" / "td.json"
    record.parent.mkdir()
    record.write_text(json.dumps({"spec": {"disk": str(folder / "disk.raw")}}))
    with pytest.raises(StateError, match="used by demo"):
        delete_image("debian-13-aaa")
    assert folder.is_dir()

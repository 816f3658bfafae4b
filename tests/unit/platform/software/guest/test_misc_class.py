"""The covered directories follow the real ones; mounts are made by a stand-in."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from tdxstack.errors import SystemFault
from tdxstack.platform.software.guest import misc_class, mounts
from tdxstack.platform.software.guest.misc_class import MiscClass


@pytest.fixture
def sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``real`` is what is underneath, ``shown`` what clients see; a cover swaps nothing, it is a second directory."""
    for name in ("real/devices", "real/class", "shown/devices", "shown/class"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("fuse", "tun"):
        add(tmp_path, name)

    def cover(target: Path) -> int:
        return os.open(tmp_path / "real" / target.name, os.O_PATH | os.O_DIRECTORY)

    monkeypatch.setattr(mounts, "cover", cover)
    monkeypatch.setattr(
        mounts, "mount", lambda source, target, kind, flags: (target.parent / f"{target.name}").touch()
    )
    monkeypatch.setattr(mounts, "detach", lambda target: True)
    return tmp_path


def add(root: Path, name: str) -> None:
    (root / "real/devices" / name).mkdir()
    (root / "real/class" / name).symlink_to(f"../../devices/virtual/misc/{name}")


def links(root: Path) -> dict[str, str]:
    return {path.name: str(path.readlink()) for path in (root / "shown/class").iterdir()}


def test_devices_are_kept_and_ours_is_added(sysfs: Path) -> None:
    misc = MiscClass(sysfs / "shown/devices", sysfs / "shown/class")
    misc.install()
    assert sorted(os.listdir(sysfs / "shown/devices")) == ["fuse", "tdx_guest", "tun"]
    assert links(sysfs) == {name: f"../../devices/virtual/misc/{name}" for name in ("fuse", "tun", "tdx_guest")}
    assert misc.measurements.is_dir()


def test_devices_come_and_go(sysfs: Path) -> None:
    misc = MiscClass(sysfs / "shown/devices", sysfs / "shown/class")
    misc.install()
    add(sysfs, "vhost-net")
    (sysfs / "real/devices/tun").rmdir()
    (sysfs / "real/class/tun").unlink()
    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    follower = threading.Thread(target=misc.follow, args=(ours,), daemon=True)
    follower.start()
    kernel.send(b"add@/devices/virtual/block/loop0\0SUBSYSTEM=block\0")
    kernel.send(b"add@/devices/virtual/misc/vhost-net\0ACTION=add\0SUBSYSTEM=misc\0SEQNUM=7\0")
    kernel.close()  # what was sent is still received; then the follower ends, and the directories are at rest
    follower.join(60)
    assert not follower.is_alive()
    ours.close()
    assert set(links(sysfs)) == {"fuse", "vhost-net", "tdx_guest"}
    assert sorted(os.listdir(sysfs / "shown/devices")) == ["fuse", "tdx_guest", "vhost-net"]


def test_a_kernel_driver_is_left_alone(sysfs: Path) -> None:
    (sysfs / "shown/class" / misc_class.NAME).symlink_to("elsewhere")
    with pytest.raises(SystemFault, match="driver of its own"):
        MiscClass(sysfs / "shown/devices", sysfs / "shown/class").install()

from __future__ import annotations

from pathlib import Path

import pytest

from tdxstack.errors import SystemFault
from tdxstack.platform.software.guest import mounts
from tdxstack.platform.software.guest.emulation import Emulation

MOUNTINFO = r"""22 1 0:20 / /sys rw,relatime - sysfs sysfs rw
36 22 0:29 / /sys/kernel/config rw - configfs configfs rw
37 36 0:30 / /sys/kernel/config/tsm/report rw - fuse.tsm-report tdxstack-software rw
40 22 0:32 / /sys/devices/virtual/misc rw shared:5 - tmpfs tdxstack-software rw
44 40 0:22 /devices/virtual/misc/fuse /sys/devices/virtual/misc/fuse rw - sysfs sysfs rw
51 40 0:34 / /sys/devices/virtual/misc/tdx_guest/measurements rw - fuse.tsm-mr tdxstack-software rw
60 22 0:40 / /mnt/with\040space rw - ext4 /dev/vdb rw
"""


@pytest.fixture
def mountinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "mountinfo"
    path.write_text(MOUNTINFO)
    monkeypatch.setattr(mounts, "_MOUNTINFO", str(path))
    return path


def test_is_mounted(mountinfo: Path) -> None:
    assert mounts.is_mounted(Path("/sys/kernel/config"), "configfs")
    assert not mounts.is_mounted(Path("/sys/kernel/config"), "securityfs")
    assert not mounts.is_mounted(Path("/sys/kernel"), "sysfs")
    assert mounts.is_mounted(Path("/mnt/with space"), "ext4")


def test_only_own_mounts_are_detached_last_first(mountinfo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detached: list[str] = []

    def detach(target: Path) -> bool:
        detached.append(str(target))
        lines = [line for line in mountinfo.read_text().splitlines() if line.split(" ")[4] != str(target)]
        mountinfo.write_text("\n".join(lines))
        return True

    monkeypatch.setattr(mounts, "detach", detach)
    mounts.detach_own(Path("/sys/devices/virtual/misc"))
    assert detached == ["/sys/devices/virtual/misc/tdx_guest/measurements", "/sys/devices/virtual/misc"]
    mounts.detach_own(Path("/sys/kernel/config/tsm"))
    assert detached[2:] == ["/sys/kernel/config/tsm/report"]


def test_detaching_ends_where_the_kernel_refuses(mountinfo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []
    monkeypatch.setattr(mounts, "detach", calls.append)
    mounts.detach_own(Path("/sys/kernel/config/tsm/report"))
    assert len(calls) == 1


def test_a_mount_that_is_refused_says_where(tmp_path: Path) -> None:
    with pytest.raises(SystemFault, match=f"cannot mount nonsense on {tmp_path}"):
        mounts.mount("none", tmp_path, "nonsense")


def test_emulation_keeps_the_fault_of_each_part(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoChannel:
        def close(self) -> None:
            return None

    def refuse(*_: object, **__: object) -> None:
        raise SystemFault("cannot", hint="look")

    for name in ("device", "reports", "ccel", "measurements"):
        monkeypatch.setattr(Emulation, f"_start_{name}", refuse)
    emulation = Emulation(NoChannel())  # type: ignore[arg-type]
    emulation.start()
    assert emulation.faults == dict.fromkeys(("device", "report", "ccel", "measurements"), "cannot (look)")
    emulation.stop()

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

import pytest

from tdxstack.errors import SystemFault
from tdxstack.platform import linux_vsock
from tdxstack.platform.linux_vsock import VHOST_VSOCK_SET_GUEST_CID, cid_is_free
from tdxstack.vm import allocation
from tdxstack.vm.record import Run, TdRecord
from tdxstack.vm.spec import TdSpec, VmType

TAKEN = 3


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A device whose kernel says that a machine has CID 3."""
    path = tmp_path / "vhost-vsock"
    path.touch()

    def ioctl(_descriptor: int, request: int, argument: bytes) -> bytes:
        assert request == VHOST_VSOCK_SET_GUEST_CID
        if struct.unpack("=Q", argument) == (TAKEN,):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        return argument

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    monkeypatch.setattr(linux_vsock, "DEVICE", path)
    return path


def test_the_kernel_tells_who_has_a_cid(device: Path) -> None:
    assert [cid_is_free(cid, device) for cid in (TAKEN, TAKEN + 1)] == [False, True]


def test_without_the_device_nobody_can_tell(tmp_path: Path) -> None:
    assert cid_is_free(TAKEN, tmp_path / "absent")
    file = tmp_path / "no-device"
    file.touch()
    assert cid_is_free(TAKEN, file), "a file answers with ENOTTY, not with EADDRINUSE"


def test_a_cid_of_another_program_is_not_taken(device: Path, tmp_path: Path) -> None:
    def record(cid: int) -> TdRecord:
        spec = TdSpec(name="demo", kernel=tmp_path / "k", type=VmType.EFI, vsock=True, vsock_cid=cid, network="none")
        return TdRecord(spec=spec)

    assert allocation.fill(record(0), Run()).vsock_cid == TAKEN + 1
    assert allocation.fill(record(TAKEN), Run(), preview=True).vsock_cid == TAKEN
    with pytest.raises(SystemFault, match="CID 3 is in use"):
        allocation.fill(record(TAKEN), Run())

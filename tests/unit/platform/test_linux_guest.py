from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tdxstack.errors import PlatformMissing, SystemFault, UsageError
from tdxstack.platform import linux_guest
from tdxstack.platform.linux_guest import GuestPaths

from .guest_tree import guest_tree, write


@pytest.fixture
def paths(tmp_path: Path) -> GuestPaths:
    return guest_tree(tmp_path)


def fake_report(report_data: bytes) -> bytes:
    body = bytearray(b"\x81" + bytes(1023))
    body[128:192] = report_data
    body[528:576] = b"M" * 48
    for index in range(4):
        body[720 + 48 * index : 768 + 48 * index] = bytes([0x20 + index]) * 48
    return bytes(body)


def test_platform_kind(tmp_path: Path, paths: GuestPaths) -> None:
    assert linux_guest.platform_kind(paths) == "software"
    bare = GuestPaths(tmp_path / "bare")
    assert linux_guest.platform_kind(bare) == "none"
    write(bare.root / "proc/cpuinfo", b"processor : 0\nflags\t\t: fpu sse tdx_guest avx\n")
    assert linux_guest.platform_kind(bare) == "tdx"
    write(bare.root / "proc/cpuinfo", b"flags : fpu not_tdx_guest_at_all\n")
    assert linux_guest.platform_kind(bare) == "none"


def test_report_by_ioctl(paths: GuestPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    write(paths.device, b"")

    def ioctl(descriptor: int, command: int, data: bytes) -> bytes:
        assert (command, len(data)) == (0xC4405401, 1088)
        return data[:64] + fake_report(data[:64])

    monkeypatch.setattr(linux_guest, "ioctl", ioctl)
    assert linux_guest.report(b"\x07" * 64, paths)[128:192] == b"\x07" * 64


def test_report_where_the_ioctl_fails(paths: GuestPaths) -> None:
    write(paths.device, b"")
    with pytest.raises(SystemFault, match=r"TDX_CMD_GET_REPORT0.*Inappropriate ioctl"):
        linux_guest.report(bytes(64), paths)


def test_report_without_a_device(paths: GuestPaths) -> None:
    with pytest.raises(PlatformMissing, match="dev/tdx_guest: No such file") as caught:
        linux_guest.report(bytes(64), paths)
    assert "tdxstack-guest" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="63 bytes"):
        linux_guest.report(bytes(63), paths)


def test_event_log(paths: GuestPaths) -> None:
    log = linux_guest.event_log(paths)
    assert (log.table, log.data) == (b"table", b"log")
    (paths.tables / "data" / "CCEL").unlink()
    with pytest.raises(PlatformMissing, match="data/CCEL"):
        linux_guest.event_log(paths)


def test_registers_from_sysfs(paths: GuestPaths) -> None:
    found = linux_guest.registers(paths)
    assert found.mrtd == b"m" * 48
    assert found.rtmrs == tuple(bytes([index]) * 48 for index in range(4))
    assert found.source == str(paths.measurements[1])


def test_registers_out_of_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux_guest, "report", lambda data, paths: fake_report(data))
    found = linux_guest.registers(GuestPaths(tmp_path))
    assert found.mrtd == b"M" * 48
    assert found.rtmrs == tuple(bytes([0x20 + index]) * 48 for index in range(4))
    assert found.source.endswith("dev/tdx_guest")


def test_extend_writes_once_and_reads_back(paths: GuestPaths) -> None:
    assert linux_guest.extend(3, b"d" * 48, paths) == b"d" * 48
    assert linux_guest.registers(paths).rtmrs[2] == b"\x02" * 48


@pytest.mark.parametrize(("index", "size"), [(4, 48), (-1, 48), (0, 47), (0, 0)])
def test_extend_with_what_makes_no_sense(paths: GuestPaths, index: int, size: int) -> None:
    with pytest.raises(UsageError):
        linux_guest.extend(index, bytes(size), paths)


def test_extend_on_an_old_kernel(tmp_path: Path) -> None:
    with pytest.raises(PlatformMissing, match="RTMR2: this kernel has no") as caught:
        linux_guest.extend(2, bytes(48), GuestPaths(tmp_path))
    assert "6.16" in (caught.value.hint or "")


def test_extend_that_the_kernel_refuses(paths: GuestPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))

    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(SystemFault, match=r"RTMR1.*No such device or address"):
        linux_guest.extend(1, bytes(48), paths)


def test_ima_list(paths: GuestPaths) -> None:
    assert linux_guest.ima_list(paths) == (b"10 aa ima-ng\n", b"\x0a\0\0\0")
    (paths.ima / "binary_runtime_measurements").unlink()
    with pytest.raises(PlatformMissing, match="IMA list"):
        linux_guest.ima_list(paths)


def test_ioctl_is_the_systems() -> None:
    with pytest.raises(OSError, match="Inappropriate ioctl"):
        descriptor = os.open("/dev/null", os.O_RDONLY)
        try:
            linux_guest.ioctl(descriptor, linux_guest.TDX_CMD_GET_REPORT0, bytes(1088))
        finally:
            os.close(descriptor)


def test_no_log_without_a_device_is_no_td(tmp_path: Path) -> None:
    with pytest.raises(PlatformMissing) as caught:
        linux_guest.event_log(GuestPaths(tmp_path))
    assert "not a TD" in (caught.value.hint or "")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/tdx_guest").touch()
    with pytest.raises(PlatformMissing) as caught:
        linux_guest.event_log(GuestPaths(tmp_path))
    assert "did not measure" in (caught.value.hint or "")

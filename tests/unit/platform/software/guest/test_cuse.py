"""The device against ioctls as the kernel hands them over."""

from __future__ import annotations

import errno
import struct

import pytest

from tdxstack.platform.software.guest.cuse import TDX_CMD_GET_REPORT0, TdxGuestDevice
from tdxstack.platform.software.guest.fuse import Opcode

from .kernel import Kernel, Refused

DATA = bytes(range(64))
REPORT = b"\x81" + bytes(1023)


def report(report_data: bytes) -> bytes:
    assert len(report_data) == 64
    return REPORT[:128] + report_data + REPORT[192:]


@pytest.fixture
def kernel() -> Kernel:
    return Kernel(TdxGuestDevice(report).handle)


def ioctl(command: int, data: bytes, out_size: int, in_size: int | None = None) -> bytes:
    size = len(data) if in_size is None else in_size
    return struct.pack("<QIIQII", 0, 0, command, 0x7FFF0000, size, out_size) + data


def test_the_ioctl_number_is_that_of_the_header_file() -> None:
    direction, size, letter, number = 3, 64 + 1024, ord("T"), 1
    assert direction << 30 | size << 16 | letter << 8 | number == TDX_CMD_GET_REPORT0


def test_the_device_gets_its_name(kernel: Kernel) -> None:
    body = kernel.ask(Opcode.CUSE_INIT, 0, struct.pack("<IIII", 7, 41, 0, 1))
    assert struct.unpack_from("<IIII", body) == (7, 31, 0, 0)
    assert body[72:] == b"DEVNAME=tdx_guest\0"


@pytest.mark.parametrize("version", [(7, 10), (6, 40), (8, 0)])
def test_a_kernel_that_is_too_old_or_too_new(kernel: Kernel, version: tuple[int, int]) -> None:
    with Refused(errno.EPROTO):
        kernel.ask(Opcode.CUSE_INIT, 0, struct.pack("<IIII", *version, 0, 1))


def test_get_report0(kernel: Kernel) -> None:
    body = kernel.ask(Opcode.IOCTL, 0, ioctl(TDX_CMD_GET_REPORT0, DATA + bytes(1024), 1088))
    assert body == struct.pack("<iIII", 0, 0, 0, 0) + DATA + report(DATA)


@pytest.mark.parametrize("command", [0x5401, 0x5463, 0xC0105404, 0xC0085401, TDX_CMD_GET_REPORT0 ^ 1])
def test_other_ioctls(kernel: Kernel, command: int) -> None:
    with Refused(errno.ENOTTY):
        kernel.ask(Opcode.IOCTL, 0, ioctl(command, b"", 0))


@pytest.mark.parametrize("sizes", [(1087, 1088), (1088, 1087), (0, 0)])
def test_sizes_that_do_not_belong_to_the_number(kernel: Kernel, sizes: tuple[int, int]) -> None:
    with Refused(errno.EINVAL):
        kernel.ask(Opcode.IOCTL, 0, ioctl(TDX_CMD_GET_REPORT0, bytes(sizes[0]), sizes[1]))
    with Refused(errno.EINVAL):
        kernel.ask(Opcode.IOCTL, 0, b"short")


def test_the_modules_refusal_is_the_callers() -> None:
    def busy(_: bytes) -> bytes:
        raise OSError(errno.EBUSY, "operand busy")

    kernel = Kernel(TdxGuestDevice(busy).handle)
    with Refused(errno.EBUSY):
        kernel.ask(Opcode.IOCTL, 0, ioctl(TDX_CMD_GET_REPORT0, bytes(1088), 1088))


def test_the_rest(kernel: Kernel) -> None:
    assert len(kernel.ask(Opcode.OPEN, 0, bytes(8))) == 16
    assert kernel.ask(Opcode.RELEASE, 0, bytes(24)) == b""
    for opcode in (Opcode.READ, Opcode.WRITE):
        with Refused(errno.EINVAL):
            kernel.ask(opcode, 0, bytes(40))
    with Refused(errno.ENOSYS):
        kernel.ask(Opcode.POLL, 0, bytes(24))

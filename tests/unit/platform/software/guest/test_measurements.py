"""The measurement registers answer as Linux's TSM-MR files in sysfs do."""

from __future__ import annotations

import errno
import hashlib
import os

import pytest

from tdxstack.platform.software.guest.attribute_fs import AttributeFileSystem
from tdxstack.platform.software.guest.measurements import REGISTERS, measurements_tree
from tdxstack.wire.tdreport import TdInfo, TdReport, TeeTcbInfo

from .kernel import Kernel, Refused

DIGEST = hashlib.sha384(b"event").digest()


class Td:
    """Registers of one TD."""

    def __init__(self) -> None:
        self.rtmrs = [bytes([0x10 + index]) * 48 for index in range(4)]
        self.error: OSError | None = None

    def report(self) -> bytes:
        first, second, third, fourth = self.rtmrs
        info = TdInfo(
            attributes=0,
            xfam=3,
            mr_td=b"\x01" * 48,
            mr_config_id=b"\x02" * 48,
            mr_owner=b"\x03" * 48,
            mr_owner_config=b"\x04" * 48,
            rtmrs=(first, second, third, fourth),
        )
        return TdReport(report_data=bytes(64), tee_tcb_info=TeeTcbInfo(bytes(16), bytes(48)), td_info=info).to_bytes()

    def extend(self, index: int, digest: bytes) -> None:
        if self.error:
            raise self.error
        self.rtmrs[index] = hashlib.sha384(self.rtmrs[index] + digest).digest()


@pytest.fixture
def td() -> Td:
    return Td()


@pytest.fixture
def kernel(td: Td) -> Kernel:
    return Kernel(AttributeFileSystem(measurements_tree(td.report, td.extend)).handle)


def test_all_registers_are_there(kernel: Kernel, td: Td) -> None:
    assert set(kernel.names("")) - {".", ".."} == set(REGISTERS)
    values = {name: kernel.read(name) for name in REGISTERS}
    assert values["mrtd:sha384"] == b"\x01" * 48
    assert values["mrconfigid"] == b"\x02" * 48
    assert values["mrowner"] == b"\x03" * 48
    assert values["mrownerconfig"] == b"\x04" * 48
    assert [values[f"rtmr{index}:sha384"] for index in range(4)] == td.rtmrs


def test_modes_and_sizes(kernel: Kernel) -> None:
    for name in REGISTERS:
        _, mode, size = kernel.lookup(name)
        assert (mode & 0o777, size) == (0o644 if name.startswith("rtmr") else 0o444, 48)


@pytest.mark.parametrize("index", range(4))
def test_a_write_of_48_bytes_extends(kernel: Kernel, td: Td, index: int) -> None:
    before = list(td.rtmrs)
    kernel.write(f"rtmr{index}:sha384", DIGEST)
    before[index] = hashlib.sha384(before[index] + DIGEST).digest()
    assert td.rtmrs == before
    assert kernel.read(f"rtmr{index}:sha384") == before[index]


@pytest.mark.parametrize(
    ("offset", "size", "number"),
    [(0, 47, errno.EINVAL), (0, 1, errno.EINVAL), (1, 48, errno.EINVAL), (48, 48, errno.EFBIG), (96, 1, errno.EFBIG)],
)
def test_any_other_write_is_refused(kernel: Kernel, td: Td, offset: int, size: int, number: int) -> None:
    before = list(td.rtmrs)
    opened = kernel.open("rtmr3:sha384", os.O_WRONLY)
    with Refused(number):
        opened.write(offset, bytes(size))
    assert td.rtmrs == before


def test_a_longer_write_is_cut(kernel: Kernel, td: Td) -> None:
    opened = kernel.open("rtmr2:sha384", os.O_RDWR)
    assert opened.write(0, DIGEST + b"rest") == 48
    with Refused(errno.EFBIG):
        opened.write(48, b"rest")
    assert opened.read(100) == td.rtmrs[2] == hashlib.sha384(b"\x12" * 48 + DIGEST).digest()
    assert opened.read(100, 40) == td.rtmrs[2][40:]
    assert opened.read(100, 48) == b""


def test_what_cannot_be_extended_cannot_be_opened_for_writing(kernel: Kernel) -> None:
    for name in ("mrtd:sha384", "mrconfigid", "mrowner", "mrownerconfig"):
        with Refused(errno.EACCES):
            kernel.open(name, os.O_WRONLY)
    with Refused(errno.EPERM):
        kernel.mkdir("new")


def test_the_modules_refusal_is_the_writers(kernel: Kernel, td: Td) -> None:
    td.error = OSError(errno.ENXIO, "operand")
    with Refused(errno.ENXIO):
        kernel.open("rtmr3:sha384", os.O_WRONLY).write(0, DIGEST)

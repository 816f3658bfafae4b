"""The character device ``/dev/tdx_guest`` with its one ioctl, made by CUSE.

Source: ``linux/tdx-guest.h`` (TDX_CMD_GET_REPORT0: 64 bytes of REPORTDATA in, TDREPORT_STRUCT out, 1088 bytes in all)
and Documentation/virt/coco/tdx-guest; ``linux/fuse.h`` for the messages. As with the kernel's driver every other
ioctl is ENOTTY, and read and write are EINVAL.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable

from tdxstack.platform.software.guest import fuse
from tdxstack.platform.software.guest.attribute_fs import refuse
from tdxstack.platform.software.guest.fuse import Opcode, Request

DEVICE_NAME = "tdx_guest"
#: _IOWR('T', 1, struct tdx_report_req)
TDX_CMD_GET_REPORT0 = 0xC4405401
REPORT_DATA_SIZE = 64
TDREPORT_SIZE = 1024
REQUEST_SIZE = REPORT_DATA_SIZE + TDREPORT_SIZE

_INIT_OUT = struct.Struct("<8I40x")
_IOCTL_IN = struct.Struct("<QIIQII")
_IOCTL_OUT = struct.Struct("<iIII")

#: REPORTDATA (64 bytes) -> TDREPORT_STRUCT (1024 bytes). Raises OSError for what the caller is to see.
ReportSource = Callable[[bytes], bytes]


class TdxGuestDevice:
    """Answers the kernel's requests for the device."""

    def __init__(self, report: ReportSource) -> None:
        self._report = report

    def handle(self, request: Request) -> bytes:
        """The body of the answer to ``request``.

        Raises:
            OSError: what the caller is to see.
        """
        if request.opcode == Opcode.CUSE_INIT:
            return self._init(request)
        if request.opcode == Opcode.OPEN:
            return fuse.open_body(0)
        if request.opcode == Opcode.IOCTL:
            return self._ioctl(request)
        if request.opcode in (Opcode.FLUSH, Opcode.RELEASE, *fuse.SILENT):
            return b""
        if request.opcode in (Opcode.READ, Opcode.WRITE, Opcode.FSYNC):
            raise refuse(errno.EINVAL)
        raise refuse(errno.ENOSYS)

    def _init(self, request: Request) -> bytes:
        major, minor = request.version()
        if major != fuse.MAJOR_VERSION or minor < fuse.MINOR_VERSION_LEAST:
            raise refuse(errno.EPROTO)
        minor = min(minor, fuse.MINOR_VERSION)
        head = _INIT_OUT.pack(fuse.MAJOR_VERSION, minor, 0, 0, fuse.MAX_WRITE, fuse.MAX_WRITE, 0, 0)
        return head + f"DEVNAME={DEVICE_NAME}\0".encode()

    def _ioctl(self, request: Request) -> bytes:
        if len(request.body) < _IOCTL_IN.size:
            raise refuse(errno.EINVAL)
        _, _, command, _, in_size, out_size = _IOCTL_IN.unpack_from(request.body)
        if command != TDX_CMD_GET_REPORT0:
            raise refuse(errno.ENOTTY)
        data = request.body[_IOCTL_IN.size :]
        if in_size != REQUEST_SIZE or out_size != REQUEST_SIZE or len(data) != REQUEST_SIZE:
            raise refuse(errno.EINVAL)
        report_data = data[:REPORT_DATA_SIZE]
        return _IOCTL_OUT.pack(0, 0, 0, 0) + report_data + self._report(report_data)

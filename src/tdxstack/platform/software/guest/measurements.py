"""Measurement registers as files, ``/sys/devices/virtual/misc/tdx_guest/measurements`` of Linux 6.16 and later.

Source: Documentation/ABI/testing/sysfs-devices-virtual-misc-tdx_guest and Documentation/driver-api/coco. Eight files
of 48 bytes; a write of 48 bytes to an RTMR extends it. As sysfs does, a longer write is cut to the file's size, one
that starts at its end or behind it is EFBIG, any other that is not the whole register EINVAL.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from tdxstack.platform.software.guest.attribute_fs import Attribute, Directory, refuse

SIZE = 48
RTMR_COUNT = 4
#: File name -> offset of the register in TDREPORT_STRUCT (Intel TDX Module ABI, TDINFO_STRUCT at 512).
REGISTERS: dict[str, int] = {
    **{f"rtmr{index}:sha384": 512 + 208 + SIZE * index for index in range(RTMR_COUNT)},
    "mrtd:sha384": 512 + 16,
    "mrconfigid": 512 + 64,
    "mrowner": 512 + 112,
    "mrownerconfig": 512 + 160,
}

#: () -> TDREPORT_STRUCT, 1024 bytes.
ReportSource = Callable[[], bytes]
#: (RTMR index, 48-byte digest).
Extender = Callable[[int, bytes], None]


class OpenRegister:
    """One open register; each read asks the TDX module anew."""

    def __init__(self, offset: int, report: ReportSource, extend: Callable[[bytes], None] | None) -> None:
        self._offset = offset
        self._report = report
        self._extend = extend

    def read(self, offset: int, size: int) -> bytes:
        if offset >= SIZE:
            return b""
        return self._report()[self._offset : self._offset + SIZE][offset : offset + size]

    def write(self, offset: int, data: bytes) -> int:
        if self._extend is None:
            raise refuse(errno.EIO)
        if offset >= SIZE:
            raise refuse(errno.EFBIG)
        digest = data[: SIZE - offset]
        if offset or len(digest) != SIZE:
            raise refuse(errno.EINVAL)
        self._extend(digest)
        return SIZE

    def flush(self) -> None:
        """Each write was carried out already."""


def measurements_tree(report: ReportSource, extend: Extender) -> Directory:
    """The root of the tree."""

    def attribute(index: int, offset: int) -> Attribute:
        if index >= RTMR_COUNT:
            return Attribute(0o444, SIZE, lambda: OpenRegister(offset, report, None))
        return Attribute(0o644, SIZE, lambda: OpenRegister(offset, report, lambda digest: extend(index, digest)))

    return Directory({name: attribute(index, offset) for index, (name, offset) in enumerate(REGISTERS.items())})

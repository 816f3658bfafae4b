"""What kind of program an EFI image on a disk is. Pure.

Source: Microsoft PE format (subsystems), shim (sections ``.vendor_cert`` and ``.sbatlevel``), unified kernel
image specification of the UAPI group, Linux/x86 boot protocol (``HdrS`` at 0x202).
"""

from __future__ import annotations

import struct

from tdxstack.errors import WireError
from tdxstack.wire.pe import PeImage

#: EFI application, boot service driver, run-time driver.
_EFI_SUBSYSTEMS = (10, 11, 12)
_BY_NAME = (("mm", "MokManager"), ("fb", "fallback"), ("grub", "GRUB"), ("shim", "shim"))


def program_kind(path: str, data: bytes) -> str | None:
    """What an image is in a word, or None if it is no EFI image that a firmware could start."""
    try:
        image = PeImage.from_bytes(data)
    except WireError:
        return None
    pe = int.from_bytes(data[0x3C:0x40], "little")
    (subsystem,) = struct.unpack_from("<H", data, pe + 24 + 68)
    if subsystem not in _EFI_SUBSYSTEMS:
        return None
    names = {section.name for section in image.sections}
    if ".linux" in names:
        return "UKI"
    if data[0x202:0x206] == b"HdrS":
        return "kernel"
    if {".vendor_cert", ".sbatlevel"} & names:
        return "shim"
    if b"#### LoaderInfo: systemd-boot" in data:
        return "systemd-boot"
    name = path.rpartition("/")[2].casefold()
    return next((kind for start, kind in _BY_NAME if name.startswith(start)), "EFI program")

"""A kernel of a few bytes that switches the machine off: the sign that the firmware has done its work.

It is a PE32+ image for UEFI with the Linux boot protocol's header in front, so that QEMU takes it as ``-kernel`` and
OVMF starts it like any kernel. Its code asks the q35 chipset for S5 (PM1a control at 0x604, as OVMF sets it up),
which QEMU reports as the event SHUTDOWN.
"""

from __future__ import annotations

import struct

_PE_OFFSET = 0x400
_HEADERS = 0x1000
_CODE = bytes.fromhex("66ba0406" "66b80020" "66ef" "fa" "f4" "ebfc")  # fmt: skip


def marker_kernel() -> bytes:
    """The image: 8 KiB, the same bytes each time."""
    image = bytearray(_HEADERS + 0x1000)
    image[0:2] = b"MZ"
    struct.pack_into("<I", image, 0x3C, _PE_OFFSET)
    # Linux/x86 boot protocol 2.15: 8 sectors of setup, loaded high, relocatable, 64-bit EFI entry.
    image[0x1F1] = 7
    struct.pack_into("<I", image, 0x1F4, 0x1000 // 16)
    struct.pack_into("<H", image, 0x1FE, 0xAA55)
    image[0x200:0x206] = b"\xeb\x66HdrS"
    struct.pack_into("<H", image, 0x206, 0x020F)
    image[0x211] = 1
    struct.pack_into("<IIB", image, 0x22C, 0x7FFFFFFF, 0x200000, 1)
    struct.pack_into("<H", image, 0x236, 0x3F)
    struct.pack_into("<I", image, 0x238, 2047)
    struct.pack_into("<I", image, 0x260, 0x100000)
    image[_PE_OFFSET : _PE_OFFSET + 4] = b"PE\0\0"
    struct.pack_into("<HHIIIHH", image, _PE_OFFSET + 4, 0x8664, 1, 0, 0, 0, 240, 0x0206)
    optional = struct.pack("<HBBIIIII", 0x20B, 2, 0, 0x1000, 0, 0, _HEADERS, _HEADERS)
    optional += struct.pack("<QII", 0, 0x1000, 0x1000)
    optional += struct.pack("<HHHHHHIIII", 0, 0, 0, 0, 0, 0, 0, len(image), _HEADERS, 0)
    optional += struct.pack("<HHQQQQII", 10, 0x100, 0, 0, 0, 0, 0, 16) + bytes(128)
    image[_PE_OFFSET + 24 : _PE_OFFSET + 24 + len(optional)] = optional
    section = struct.pack("<8sIIIIIIHHI", b".text", 0x1000, _HEADERS, 0x1000, _HEADERS, 0, 0, 0, 0, 0x60000020)
    image[_PE_OFFSET + 264 : _PE_OFFSET + 264 + len(section)] = section
    image[_HEADERS : _HEADERS + len(_CODE)] = _CODE
    return bytes(image)

"""The Linux kernel as it is measured in a direct boot: as given, or as QEMU patches it; and its command line.

Source: Linux ``Documentation/arch/x86/boot.rst``; QEMU ``hw/i386/x86-common.c`` (``x86_load_linux``), which writes
into the setup header what a BIOS boot loader would, unless firmware and QEMU share the unpatched kernel
(``etc/boot/kernel``: QEMU 10.0 and OVMF of edk2-stable202502, and newer).
"""

from __future__ import annotations

import struct

from tdxstack.errors import WireError

_MAGIC_AT, _MAGIC = 0x202, b"HdrS"
_CMDLINE_ADDRESS, _REAL_ADDRESS = 0x20000, 0x10000
_TYPE_OF_LOADER_QEMU = 0xB0
_CAN_USE_HEAP = 0x80
_XLF_CAN_BE_LOADED_ABOVE_4G = 1 << 1
#: QEMU leaves this much room for ACPI data below the end of low memory.
_ACPI_DATA_SIZE = 0x20000 + 0x8000


def patched_by_qemu(kernel: bytes, *, initrd_size: int, cmdline: str, memory_bytes: int) -> bytes:
    """The kernel file with the setup header that QEMU writes for ``-kernel``.

    Args:
        kernel: the bzImage.
        initrd_size: bytes of the initrd, 0 for none.
        cmdline: the command line.
        memory_bytes: RAM of the machine, which decides where the initrd goes.

    Raises:
        WireError: not a bzImage of boot protocol 2.02 or newer, or the initrd does not fit.
    """
    if len(kernel) < 0x264 or kernel[_MAGIC_AT : _MAGIC_AT + 4] != _MAGIC:
        raise WireError("Linux setup header", "header", _MAGIC_AT, "not a bzImage (no HdrS)")
    protocol = int.from_bytes(kernel[0x206:0x208], "little")
    if protocol < 0x202:
        raise WireError("Linux setup header", "version", 0x206, f"0x{protocol:x}, older than 2.02")
    image = bytearray(kernel)
    image[0x210] = _TYPE_OF_LOADER_QEMU
    image[0x211] |= _CAN_USE_HEAP
    struct.pack_into("<H", image, 0x224, _CMDLINE_ADDRESS - _REAL_ADDRESS - 0x200)
    struct.pack_into("<I", image, 0x228, _CMDLINE_ADDRESS)
    if (mode := _video_mode(cmdline)) is not None:
        struct.pack_into("<H", image, 0x1FA, mode)
    if initrd_size:
        address = initrd_address(kernel, initrd_size, memory_bytes)
        struct.pack_into("<II", image, 0x218, address, initrd_size)
    return bytes(image)


def initrd_address(kernel: bytes, initrd_size: int, memory_bytes: int) -> int:
    """Where QEMU puts the initrd (physical address).

    Raises:
        WireError: it does not fit.
    """
    protocol = int.from_bytes(kernel[0x206:0x208], "little")
    xloadflags = int.from_bytes(kernel[0x236:0x238], "little")
    if protocol >= 0x20C and xloadflags & _XLF_CAN_BE_LOADED_ABOVE_4G:
        highest = 0xFFFFFFFF
    elif protocol >= 0x203:
        highest = int.from_bytes(kernel[0x22C:0x230], "little")
    else:
        highest = 0x37FFFFFF
    below_4g = min(memory_bytes, 0x80000000 if memory_bytes >= 0xB0000000 else 0xB0000000)
    highest = min(highest, below_4g - _ACPI_DATA_SIZE - 1)
    if initrd_size >= highest:
        raise WireError("Linux setup header", "ramdisk_size", 0x21C, f"{initrd_size} bytes do not fit")
    return (highest - initrd_size) & ~0xFFF


def _video_mode(cmdline: str) -> int | None:
    """The number behind ``vga=``, as QEMU reads it."""
    _, found, rest = cmdline.partition("vga=")
    if not found:
        return None
    names = {"normal": 0xFFFF, "ext": 0xFFFE, "ask": 0xFFFD}
    for name, mode in names.items():
        if rest.startswith(name):
            return mode
    word = rest.split(" ", 1)[0]
    try:
        return int(word, 0) & 0xFFFF
    except ValueError:
        return 0


def load_options(cmdline: str, *, initrd: bool, initrd_first: bool) -> str:
    """The text that the firmware hands to the kernel as LoadOptions."""
    if not initrd:
        return cmdline
    return f"initrd=initrd {cmdline}" if initrd_first else f"{cmdline} initrd=initrd"

"""PE images with sections of the test's choosing, long names included; and the boot loaders made of them."""

from __future__ import annotations

import struct

from tdxstack.vm.marker_kernel import marker_kernel

_PE, _SECTIONS, _HEADERS = 0x400, 0x400 + 264, 0x1000


def image(*sections: tuple[str, bytes]) -> bytes:
    """A PE image with these sections. Names longer than eight bytes go into a COFF string table."""
    headers = bytearray(marker_kernel()[:_HEADERS])
    struct.pack_into("<H", headers, _PE + 6, len(sections))
    body, strings = b"", b""
    for number, (name, content) in enumerate(sections):
        raw = content + bytes(-len(content) % 512)
        short = name.encode()
        if len(short) > 8:
            short = f"/{4 + len(strings)}".encode()
            strings += name.encode() + b"\0"
        place = (len(content), 0, len(raw), _HEADERS + len(body))
        entry = struct.pack("<8sIIIIIIHHI", short, *place, 0, 0, 0, 0, 0)
        headers[_SECTIONS + 40 * number : _SECTIONS + 40 * (number + 1)] = entry
        body += raw
    if strings:
        struct.pack_into("<II", headers, _PE + 12, len(headers) + len(body), 0)
        body += struct.pack("<I", 4 + len(strings)) + strings
    return bytes(headers) + body


def shim(vendor: bytes = b"\x30certificate", forbidden: bytes = b"list", level: bytes = b"sbat,1,2\n") -> bytes:
    """An image with what makes a shim one."""
    table = struct.pack("<IIII", len(vendor), len(forbidden), 16, 16 + len(vendor)) + vendor + forbidden
    levels = struct.pack("<III", 0, 8, 8 + len(level) + 1) + level + b"\0newest\0"
    return image((".text", b"shim"), (".vendor_cert", table), (".sbatlevel", levels))


def grub(prefix: str = "/EFI/debian", sbat: str = "grub.debian,5\ngrub.peimage,2\n", config: bytes = b"") -> bytes:
    """An image with what makes a GRUB one."""

    def module(kind: int, data: bytes) -> bytes:
        return struct.pack("<II", kind, 8 + len(data)) + data

    modules = module(0, b"\x7fELF....") + (module(2, config) if config else b"") + module(3, prefix.encode() + b"\0")
    header = struct.pack("<4s4xQQ", b"mimg", 24, 24 + len(modules))
    return image((".text", b"grub"), ("mods", header + modules), (".sbat", sbat.encode() + b"\0"))

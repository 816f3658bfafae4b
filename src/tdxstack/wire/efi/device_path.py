"""UEFI device paths as text.

Source: UEFI 2.10, sections 10.3 (nodes) and 10.6 (text). What is not known is shown as ``Path(type,subtype,hex)``, as
section 10.6.1.6 has it; a damaged path ends in ``...``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from uuid import UUID

END = 0x7F
#: EISA identifiers of ACPI nodes that have a name of their own: PNP0A03, PNP0A08.
_PCI_ROOTS = {0x0A0341D0: "PciRoot", 0x0A0841D0: "PcieRoot"}
_GPT_SIGNATURE = 2
Node = tuple[int, int]


def device_path_text(path: bytes) -> str:
    """``PciRoot(0x0)/Pci(0x3,0x0)/MAC(525400123456,0x1)``; nodes are told as far as they can be read."""
    parts: list[str] = []
    position = 0
    while position + 4 <= len(path):
        kind, subtype, length = struct.unpack_from("<BBH", path, position)
        if kind == END:
            return "/".join(parts)
        if length < 4 or position + length > len(path):
            break
        parts.append(_node(kind, subtype, path[position + 4 : position + length]))
        position += length
    return "/".join([*parts, "..."])


def _node(kind: int, subtype: int, data: bytes) -> str:
    tell = _TELL.get((kind, subtype))
    try:
        if tell is not None:
            return tell(data)
    except (struct.error, ValueError):
        pass
    return f"Path({kind},{subtype},{data[:32].hex()})"


def _pci(data: bytes) -> str:
    function, device = struct.unpack("<BB", data)
    return f"Pci(0x{device:x},0x{function:x})"


def _acpi(data: bytes) -> str:
    identifier, unique = struct.unpack("<II", data)
    name = _PCI_ROOTS.get(identifier)
    return f"{name}(0x{unique:x})" if name else f"Acpi(0x{identifier:08x},0x{unique:x})"


def _hard_drive(data: bytes) -> str:
    number, start, size, signature, _, kind = struct.unpack("<IQQ16sBB", data)
    named = f"GPT,{UUID(bytes_le=signature)}" if kind == _GPT_SIGNATURE else f"MBR,0x{signature[:4][::-1].hex()}"
    return f"HD({number},{named},0x{start:x},0x{size:x})"


def _mac(data: bytes) -> str:
    address, kind = struct.unpack("<32sB", data)
    return f"MAC({address[:6].hex()},0x{kind:x})"


def _nvme(data: bytes) -> str:
    namespace, identifier = struct.unpack("<I8s", data)
    return f"NVMe(0x{namespace:x},{identifier[::-1].hex('-')})"


def _file(data: bytes) -> str:
    return data.decode("utf-16-le").rstrip("\0")


def _uri(data: bytes) -> str:
    return f"Uri({data.decode('ascii')})"


def _guid(name: str) -> Callable[[bytes], str]:
    return lambda data: f"{name}({UUID(bytes_le=data)})"


def _numbers(name: str, layout: str) -> Callable[[bytes], str]:
    """A node of numbers alone, in the order of its text."""
    return lambda data: f"{name}({','.join(f'0x{value:x}' for value in struct.unpack(layout, data))})"


def _named(name: str) -> Callable[[bytes], str]:
    return lambda _data: f"{name}()"


_TELL: dict[Node, Callable[[bytes], str]] = {
    (1, 1): _pci,
    (1, 3): _numbers("MemoryMapped", "<IQQ"),
    (1, 5): _numbers("Ctrl", "<I"),
    (2, 1): _acpi,
    (3, 1): _numbers("Ata", "<BBH"),
    (3, 2): _numbers("Scsi", "<HH"),
    (3, 5): _numbers("USB", "<BB"),
    (3, 11): _mac,
    (3, 12): _named("IPv4"),
    (3, 13): _named("IPv6"),
    (3, 17): _numbers("Unit", "<B"),
    (3, 18): _numbers("Sata", "<HHH"),
    (3, 20): _numbers("Vlan", "<H"),
    (3, 23): _nvme,
    (3, 24): _uri,
    (3, 26): _numbers("SD", "<B"),
    (3, 29): _numbers("eMMC", "<B"),
    (4, 1): _hard_drive,
    (4, 2): _numbers("CDROM", "<IQQ"),
    (4, 4): _file,
    (4, 6): _guid("FvFile"),
    (4, 7): _guid("Fv"),
}

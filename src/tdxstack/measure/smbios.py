"""The SMBIOS tables as OVMF publishes them, in the form that it measures.

Source: edk2 ``OvmfPkg/SmbiosPlatformDxe`` (type 0 is added if QEMU gives none) and
``MdeModulePkg/Universal/SmbiosDxe`` (end marker with handle 0xFEFF).
"""

from __future__ import annotations

import struct

from tdxstack.wire.smbios_measured import END_OF_TABLE, Structure, structures

_TYPE0 = struct.Struct("<BBHBBHBBQBBBBBBH")
_END = Structure(bytes((END_OF_TABLE, 4)) + b"\xff\xfe", ())


def measured_smbios(tables: bytes, firmware_strings: tuple[str, str, str] | None) -> bytes | None:
    """What is hashed of ``etc/smbios/smbios-tables``.

    Args:
        tables: QEMU's structures.
        firmware_strings: vendor, version and date of the firmware.

    Returns:
        None if a type 0 structure must be added and the strings are not known.

    Raises:
        WireError: the tables are damaged.
    """
    given = [one for one in structures(tables) if one.type != END_OF_TABLE]
    if all(one.type != 0 for one in given):
        if firmware_strings is None:
            return None
        given.append(_type0(_free_handle(given), firmware_strings))
    return b"".join(one.measured() for one in (*given, _END))


def _free_handle(given: list[Structure]) -> int:
    taken = {one.handle for one in given}
    return next(handle for handle in range(0xFF00) if handle not in taken)


def _type0(handle: int, texts: tuple[str, str, str]) -> Structure:
    """BIOS information: segment 0xE800, characteristics not supported, UEFI and virtual machine bits."""
    head = _TYPE0.pack(0, _TYPE0.size, handle, 1, 2, 0xE800, 3, 0, 8, 0, 0x1C, 0, 0, 0xFF, 0xFF, 0)
    return Structure(head, tuple(text.encode("latin-1", "replace") for text in texts))

"""ACPI loader script and RSDP derived from the tables blob alone, as QEMU builds them for q35.

For when only the tables are at hand (copied from a guest's fw_cfg, or from a collection of reference values).
Source: QEMU ``hw/i386/acpi-build.c`` and ``hw/acpi/bios-linker-loader.c``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from tdxstack.errors import WireError
from tdxstack.wire.acpi import COMMAND_SIZE

TABLES, RSDP, TPM_LOG = "etc/acpi/tables", "etc/acpi/rsdp", "etc/tpm/log"
_ALLOCATE, _ADD_POINTER, _ADD_CHECKSUM = 1, 2, 3
_ZONE_HIGH, _ZONE_FSEG = 1, 2
_CHECKSUM_AT = 9
_SCRIPT_ALIGNMENT = 4096
_RSDP = struct.Struct("<8sB6sBI")
#: Pointers in a table: (offset, size).
_FADT_POINTERS = ((36, 4), (40, 4), (140, 8))
_TPM2_LOG_POINTER = (68, 8)
_HEADER = 36
MAX_TABLES = 256


def loader_of_tables(tables: bytes) -> bytes:
    """``etc/table-loader`` for a blob ``etc/acpi/tables``.

    Raises:
        WireError: the blob is not a run of ACPI tables that ends with an RSDT.
    """
    found = list(_tables(tables))
    with_tpm = any(signature == b"TPM2" for signature, _, _ in found)
    commands = [_allocate(RSDP, 16, _ZONE_FSEG)]
    if with_tpm:
        commands.append(_allocate(TPM_LOG, 1, _ZONE_HIGH))
    commands.append(_allocate(TABLES, 64, _ZONE_HIGH))
    for signature, start, length in found:
        commands += _fixups(signature, start, length)
    commands += [_pointer(RSDP, TABLES, 16, 4), _checksum(RSDP, 8, 0, _RSDP.size)]
    script = b"".join(commands)
    return script + bytes(-len(script) % _SCRIPT_ALIGNMENT)


def rsdp_of_tables(tables: bytes) -> bytes:
    """``etc/acpi/rsdp`` (revision 0, before the loader patches it) for a blob ``etc/acpi/tables``.

    Raises:
        WireError: as :func:`loader_of_tables`.
    """
    start = next(start for signature, start, _ in _tables(tables) if signature == b"RSDT")
    return _RSDP.pack(b"RSD PTR ", 0, b"BOCHS ", 0, start)


def _tables(blob: bytes) -> Iterator[tuple[bytes, int, int]]:
    position = 0
    for _ in range(MAX_TABLES):
        if position + 8 > len(blob):
            raise WireError(TABLES, "RSDT", position, "the blob ends without an RSDT")
        signature = blob[position : position + 4]
        length = int.from_bytes(blob[position + 4 : position + 8], "little")
        if length < _HEADER or position + length > len(blob):
            raise WireError(TABLES, "Length", position + 4, f"{length} bytes for {signature!r}")
        yield signature, position, length
        if signature == b"RSDT":
            return
        position += length
    raise WireError(TABLES, "tables", position, f"more than {MAX_TABLES}")


def _fixups(signature: bytes, start: int, length: int) -> list[bytes]:
    if signature == b"FACS":
        return []
    pointers: tuple[tuple[int, int], ...] = ()
    target = TABLES
    if signature == b"FACP":
        pointers = _FADT_POINTERS
    elif signature == b"TPM2":
        pointers, target = (_TPM2_LOG_POINTER,), TPM_LOG
    elif signature == b"RSDT":
        pointers = tuple((offset, 4) for offset in range(_HEADER, length, 4))
    commands = [_pointer(TABLES, target, start + offset, size) for offset, size in pointers]
    return [*commands, _checksum(TABLES, start + _CHECKSUM_AT, start, length)]


def _name(name: str) -> bytes:
    return name.encode().ljust(56, b"\0")


def _command(code: int, body: bytes) -> bytes:
    return (struct.pack("<I", code) + body).ljust(COMMAND_SIZE, b"\0")


def _allocate(name: str, alignment: int, zone: int) -> bytes:
    return _command(_ALLOCATE, _name(name) + struct.pack("<IB", alignment, zone))


def _pointer(patched: str, target: str, offset: int, size: int) -> bytes:
    return _command(_ADD_POINTER, _name(patched) + _name(target) + struct.pack("<IB", offset, size))


def _checksum(name: str, offset: int, start: int, length: int) -> bytes:
    return _command(_ADD_CHECKSUM, _name(name) + struct.pack("<III", offset, start, length))

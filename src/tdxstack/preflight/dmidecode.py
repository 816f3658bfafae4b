"""What ``dmidecode`` prints, read where a captured tree has its text in place of the firmware's table.

Only what checks look at: memory devices (type 17) and the system (type 1). What the text leaves out is unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tdxstack.preflight.facts import FactMalformed
from tdxstack.wire.smbios import MAX_STRUCTURES, MemoryDevice, MemoryTechnology, MemoryType, SmbiosTable, System

#: A dump of ``dmidecode --dump-bin``: the entry point, then the table.
ENTRY_POINTS = (b"_SM3_", b"_SM_")
TABLE_AT = 0x20
_SIZE = re.compile(r"(\d{1,9}) ?(kB|MB|GB|TB)", re.IGNORECASE)
_MIB = {"kb": 1 / 1024, "mb": 1, "gb": 1024, "tb": 1 << 20}
_WIDTH = re.compile(r"(\d{1,5}) bits")


@dataclass(frozen=True, slots=True)
class Hardware:
    """What SMBIOS says of a machine, and ``where`` it stands."""

    where: str
    memory_devices: tuple[MemoryDevice, ...]
    system: System | None

    @classmethod
    def from_table(cls, where: str, table: SmbiosTable) -> Hardware:
        return cls(where, table.memory_devices, table.system)


def read(where: str, data: bytes) -> Hardware:
    """Read what ``dmidecode`` printed, or dumped (``--dump-bin``).

    Raises:
        FactMalformed: it names no structure.
        WireError: a damaged dump.
    """
    if data.startswith(ENTRY_POINTS):
        return Hardware.from_table(where, SmbiosTable.from_bytes(data[TABLE_AT:]))
    blocks = list(_blocks(data.decode("utf-8", errors="replace")))
    if not blocks:
        raise FactMalformed(f"{where}: no structure in the form of dmidecode")
    systems = (fields for name, fields in blocks if name == "System Information")
    system = next((System(one.get("Manufacturer", ""), one.get("Product Name", "")) for one in systems), None)
    devices = tuple(_memory_device(fields) for name, fields in blocks if name == "Memory Device")
    return Hardware(where, devices, system)


def _blocks(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """(name, fields) of each structure: a name at the margin, then indented ``key: value`` lines."""
    name, fields = "", dict[str, str]()
    for line in text.splitlines()[: MAX_STRUCTURES * 64]:
        if not line.strip() or line.startswith("Handle "):
            if fields:
                yield name, fields
            name, fields = "", {}
        elif not line[0].isspace():
            name = line.strip()
        elif ":" in line and name:
            key, _, value = line.strip().partition(":")
            fields.setdefault(key, value.strip())
    if fields:
        yield name, fields


def _memory_device(fields: dict[str, str]) -> MemoryDevice:
    technology = fields.get("Memory Technology")
    return MemoryDevice(
        locator=fields.get("Locator", ""),
        bank=fields.get("Bank Locator", ""),
        size_mib=_size(fields.get("Size", "")),
        total_width=_width(fields.get("Total Width", "")),
        data_width=_width(fields.get("Data Width", "")),
        type=_type(fields.get("Type", "")),
        registered="Registered" in fields.get("Type Detail", ""),
        technology=None if technology is None else _technology(technology),
        manufacturer=fields.get("Manufacturer", ""),
        part_number=fields.get("Part Number", ""),
    )


def _size(text: str) -> int | None:
    if "no module" in text.lower():
        return 0
    found = _SIZE.fullmatch(text)
    return int(int(found[1]) * _MIB[found[2].lower()]) if found else None


def _width(text: str) -> int | None:
    found = _WIDTH.fullmatch(text)
    return int(found[1]) if found else None


def _type(text: str) -> int:
    named = {kind.name.replace("_", " "): kind for kind in MemoryType}
    named["LOGICAL NON-VOLATILE DEVICE"] = MemoryType.LOGICAL_NON_VOLATILE
    return named.get(text.upper(), MemoryType.OTHER)


def _technology(text: str) -> int:
    if "persistent" in text.lower():
        return MemoryTechnology.PERSISTENT
    named = {kind.name.replace("_", "-"): kind for kind in MemoryTechnology}
    return named.get(text.upper(), MemoryTechnology.UNKNOWN)

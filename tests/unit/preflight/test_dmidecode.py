"""Trees with what ``dmidecode`` prints in place of the firmware's table: the same hosts, the same outcomes."""

from __future__ import annotations

import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from host_trees import CASES, Tree
from tdxstack.errors import TdxStackError
from tdxstack.platform.linux_open_host import open_host
from tdxstack.preflight import dmidecode, report, tree
from tdxstack.preflight.dmidecode import Hardware
from tdxstack.preflight.host import Host
from tdxstack.wire.smbios import MemoryDevice, MemoryTechnology, MemoryType, SmbiosTable

TABLE = "sys/firmware/dmi/tables/DMI"
BY_NAME = {case.name: case for case in CASES}
EXCERPT = b"""# dmidecode 3.6
Getting SMBIOS data from sysfs.
SMBIOS 3.5.0 present.

Handle 0x0001, DMI type 1, 27 bytes
System Information
\tManufacturer: Example Corp
\tProduct Name: TDX Server
\tSerial Number: Not Specified

Handle 0x1100, DMI type 17, 92 bytes
Memory Device
\tArray Handle: 0x1000
\tTotal Width: 80 bits
\tData Width: 64 bits
\tSize: 32 GB
\tLocator: CPU0_DIMM_A1
\tBank Locator: NODE 0
\tType: DDR5
\tType Detail: Synchronous Registered (Buffered)
\tMemory Technology: DRAM

Handle 0x1101, DMI type 17, 92 bytes
Memory Device
\tTotal Width: Unknown
\tData Width: Unknown
\tSize: No Module Installed
\tLocator: CPU0_DIMM_A2
\tType: Unknown

Handle 0x1102, DMI type 17, 92 bytes
Memory Device
\tTotal Width: 72 bits
\tData Width: 64 bits
\tSize: 131072 MB
\tLocator: CPU0_DIMM_B1
\tType: Logical non-volatile device
\tMemory Technology: Intel Optane persistent memory
"""


def dump(table: bytes) -> bytes:
    """The table as ``dmidecode --dump-bin`` keeps it: a 64-bit entry point (DSP0134 5.2.2), then the table."""
    entry = bytearray(struct.pack("<5sBBBBBBBIQ", b"_SM3_", 0, 24, 3, 3, 0, 1, 0, len(table), dmidecode.TABLE_AT))
    entry[5] = -sum(entry) & 0xFF
    return bytes(entry).ljust(dmidecode.TABLE_AT, b"\0") + table


def outcomes(made: Tree, root: Path) -> dict[str, str]:
    for path, content in made.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    results = tree.check_host(Host(open_host(root)))
    return {one.check.id: one.outcome.value for one in report.everything(results)}


def _printed(device: MemoryDevice) -> MemoryDevice:
    """Without what the program leaves out of an empty slot, or of a structure that is older than the field."""
    return replace(device, technology=None, manufacturer="", part_number="")


def test_an_excerpt() -> None:
    found = dmidecode.read("text", EXCERPT)
    assert found.system and (found.system.manufacturer, found.system.product) == ("Example Corp", "TDX Server")
    first, second, third = found.memory_devices
    assert (first.locator, first.size_mib, first.ecc_bits, first.type, first.registered) == (
        "CPU0_DIMM_A1", 32 << 10, 16, MemoryType.DDR5, True,
    )  # fmt: skip
    assert (second.populated, second.ecc_bits, second.technology) == (False, None, None)
    assert (third.size_mib, third.type) == (128 << 10, MemoryType.LOGICAL_NON_VOLATILE)
    assert third.technology == MemoryTechnology.PERSISTENT


@pytest.mark.processes
@pytest.mark.skipif(shutil.which("dmidecode") is None, reason="needs dmidecode")
@pytest.mark.parametrize("name", ["good-upstream", "good-1.5", "dimms-4-of-8", "dimms-not-symmetric"])
def test_what_the_program_prints_of_a_table(name: str, tmp_path: Path) -> None:
    made = BY_NAME[name].build()
    table = made[TABLE]
    (tmp_path / "dump").write_bytes(dump(table))
    argv = ["dmidecode", "--from-dump", str(tmp_path / "dump")]
    printed = subprocess.run(argv, check=True, capture_output=True).stdout
    by_table = Hardware.from_table("x", SmbiosTable.from_bytes(table))
    by_text = dmidecode.read("x", printed)
    assert by_text.system == by_table.system
    assert [*map(_printed, by_text.memory_devices)] == [*map(_printed, by_table.memory_devices)]
    expected = outcomes(made, tmp_path / "table")
    del made[TABLE]
    assert outcomes(made | {"dmidecode.txt": printed}, tmp_path / "text") == expected
    assert outcomes(made | {"dmidecode.bin": dump(table)}, tmp_path / "dumped") == expected


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff" * 100, b"Memory Device\n", b"_SM3_", dump(b"\x11\xff\0\0"), b"\t:\n" * 1000, b"a\n\tb: c"],
)
def test_what_is_not_its_output(content: bytes, tmp_path: Path) -> None:
    try:
        found = dmidecode.read("x", content)
    except TdxStackError:
        pass
    else:
        assert found.memory_devices == ()
    made = BY_NAME["good-upstream"].build()
    del made[TABLE]
    assert outcomes(made | {"dmidecode": content}, tmp_path)["memory.dimms"] == "warn"

"""The devices, drivers and ACPI tables of this guest against the allow-list of a hardened TD.

Drivers are what of a TD's kernel the host can attack most directly. The allow-list is the white paper's (section
3.4.3); the kernels that enforce it are Intel's, others bind whatever driver they have, and then this tells of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tdxstack.platform import linux_guest
from tdxstack.platform.linux_guest import GuestPaths

#: White paper, section 3.4.3: drivers on the PCI bus.
DRIVERS = ("virtio_net", "virtio_console", "virtio_blk", "9pnet_virtio", "virtio_vsock")
#: White paper, section 3.4.3: ACPI tables.
TABLES = ("XSDT", "FACP", "DSDT", "FACS", "APIC", "SVKL", "CCEL")
#: The kernel calls the driver of virtio_vsock by its module (net/vmw_vsock/virtio_transport.c).
ALIASES = {"vmw_vsock_virtio_transport": "virtio_vsock"}
#: PCI drivers that only carry a virtio device, whose own driver is what is judged.
TRANSPORTS = ("virtio-pci",)
ALLOWED, UNBOUND, NOT_ALLOWED = "allowed", "unbound", "not allowed"


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that was judged.

    ``bus`` is ``pci``, ``virtio``, ``acpi`` or ``table``; ``id`` is vendor and device of a PCI function, or the
    hardware ID of an ACPI device; ``driver`` is None where no driver is bound.
    """

    bus: str
    name: str
    id: str
    driver: str | None
    verdict: str


def audit(paths: GuestPaths = linux_guest.REAL, allow: Collection[str] = ()) -> dict[str, Any]:
    """``platform``, ``ok``, the number of ``findings`` and all ``items``, each with its verdict.

    Args:
        allow: names of drivers and tables that are allowed besides the allow-list.
    """
    drivers, tables = {*DRIVERS, *allow}, {*TABLES, *allow}
    found = [
        *_pci(paths.root, drivers),
        *_virtio_elsewhere(paths.root, drivers),
        *_acpi_devices(paths.root, drivers),
        *_tables(paths.tables, tables),
    ]
    findings = sum(item.verdict == NOT_ALLOWED for item in found)
    return {
        "platform": linux_guest.platform_kind(paths),
        "ok": findings == 0,
        "findings": findings,
        "items": [asdict(item) for item in found],
    }


def _pci(root: Path, drivers: Collection[str]) -> Iterator[Item]:
    for device in _entries(root / "sys/bus/pci/devices"):
        identity = f"{_text(device / 'vendor')[2:]}:{_text(device / 'device')[2:]}"
        driver = _driver(device)
        carried = [one for one in _entries(device) if one.name.startswith("virtio")] if driver in TRANSPORTS else []
        if not carried:
            yield _judged("pci", device.name, identity, driver, drivers)
        for one in carried:
            yield _judged("pci", device.name, identity, _driver(one), drivers)


def _virtio_elsewhere(root: Path, drivers: Collection[str]) -> Iterator[Item]:
    """Virtio devices that no PCI function carries."""
    for device in _entries(root / "sys/bus/virtio/devices"):
        if "pci" not in str(device.resolve()):
            yield _judged("virtio", device.name, _text(device / "device"), _driver(device), drivers)


def _acpi_devices(root: Path, drivers: Collection[str]) -> Iterator[Item]:
    """ACPI devices that a driver of the ACPI bus is bound to; those without one are many and do nothing."""
    for device in _entries(root / "sys/bus/acpi/devices"):
        if driver := _driver(device):
            yield _judged("acpi", device.name, _text(device / "hid"), driver, drivers)


def _tables(folder: Path, tables: Collection[str]) -> Iterator[Item]:
    """Tables as the kernel shows them; several of one signature have a number behind it."""
    for table in _entries(folder):
        if not table.is_dir():
            name = table.name[:4]
            yield Item("table", table.name, name, None, ALLOWED if name in tables else NOT_ALLOWED)


def _judged(bus: str, name: str, identity: str, driver: str | None, drivers: Collection[str]) -> Item:
    if driver is None:
        return Item(bus, name, identity, None, UNBOUND)
    known = ALIASES.get(driver, driver)
    return Item(bus, name, identity, known, ALLOWED if known in drivers else NOT_ALLOWED)


def _driver(device: Path) -> str | None:
    try:
        return (device / "driver").readlink().name
    except OSError:
        return None


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""

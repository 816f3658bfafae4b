"""The allow-list on trees of plain files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tdxstack.errors import UsageError
from tdxstack.platform.linux_guest import GuestPaths
from tdxstack.platform.linux_guest_agent import Agent
from tdxstack.platform.linux_guest_audit import audit


def _device(path: Path, driver: str | None = None, **files: str) -> Path:
    path.mkdir(parents=True)
    for name, text in files.items():
        (path / name).write_text(f"{text}\n")
    if driver:
        (path / "driver").symlink_to(f"../../drivers/{driver}")
    return path


def _hardened(root: Path) -> GuestPaths:
    pci = root / "sys/bus/pci/devices"
    for slot, (name, driver) in enumerate(
        [("virtio0", "virtio_blk"), ("virtio1", "virtio_net"), ("virtio2", "vmw_vsock_virtio_transport")]
    ):
        function = _device(pci / f"0000:00:0{slot}.0", "virtio-pci", vendor="0x1af4", device="0x1042")
        _device(function / name, driver)
    _device(pci / "0000:00:1f.0", vendor="0x8086", device="0x2918")
    _device(root / "sys/bus/acpi/devices/PNP0A08:00", hid="PNP0A08")
    tables = root / "sys/firmware/acpi/tables"
    (tables / "data").mkdir(parents=True)
    for name in ("APIC", "CCEL", "DSDT", "FACP", "FACS"):
        (tables / name).write_bytes(b"")
    return GuestPaths(root)


def _not_allowed(found: dict[str, Any]) -> set[str]:
    return {item["driver"] or item["name"] for item in found["items"] if item["verdict"] == "not allowed"}


def test_a_hardened_guest(tmp_path: Path) -> None:
    found = audit(_hardened(tmp_path))
    assert (found["ok"], found["findings"]) == (True, 0)
    assert {
        "bus": "pci",
        "name": "0000:00:02.0",
        "id": "1af4:1042",
        "driver": "virtio_vsock",
        "verdict": "allowed",
    } in (found["items"])
    assert [item["driver"] for item in found["items"] if item["verdict"] == "unbound"] == [None]


def test_what_is_not_on_the_list(tmp_path: Path) -> None:
    paths = _hardened(tmp_path)
    pci = tmp_path / "sys/bus/pci/devices"
    _device(pci / "0000:00:04.0", "nvme", vendor="0x8086", device="0x5845")
    _device(_device(pci / "0000:00:05.0", "virtio-pci", vendor="0x1af4", device="0x1044") / "virtio7", "virtio_rng")
    _device(tmp_path / "sys/bus/virtio/devices/virtio9", "virtio_gpu", device="0x0010")
    _device(tmp_path / "sys/bus/acpi/devices/LNXPWRBN:00", "button", hid="LNXPWRBN")
    (paths.tables / "SSDT1").write_bytes(b"")
    found = audit(paths)
    assert not found["ok"]
    assert found["findings"] == 5
    assert _not_allowed(found) == {"nvme", "virtio_rng", "virtio_gpu", "button", "SSDT1"}
    assert _not_allowed(audit(paths, ["nvme", "SSDT", "button"])) == {"virtio_rng", "virtio_gpu"}


def test_by_the_agent(tmp_path: Path) -> None:
    agent = Agent(_hardened(tmp_path))
    assert agent.call("audit", {})["ok"]
    with pytest.raises(UsageError, match="list of names"):
        agent.call("audit", {"allow": "nvme"})


def test_a_virtio_function_without_a_driver_for_its_device_is_unbound(tmp_path: Path) -> None:
    function = _device(tmp_path / "sys/bus/pci/devices/0000:00:01.0", "virtio-pci", vendor="0x1af4", device="0x1050")
    _device(function / "virtio0")
    (item,) = audit(GuestPaths(tmp_path))["items"]
    assert (item["driver"], item["verdict"]) == (None, "unbound")

"""The registers that are predicted from a TD's specification are those of the TD that boots by it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tdxstack.measure import Prediction
from tdxstack.system import process
from tdxstack.vm import lifecycle
from tdxstack.vm.expect import expect
from tdxstack.vm.spec import MIB, TdSpec
from tiny_guest import TinyGuest, tiny_guest

__all__ = ["tiny_guest"]
pytestmark = pytest.mark.integration
BOOT_TIMEOUT = 120.0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One home for all, so that the platform is made once and the tables' cache is used."""
    folder = tmp_path_factory.mktemp("prediction")
    patch = pytest.MonkeyPatch()
    patch.setenv("TDXSTACK_HOME", str(folder))
    patch.setenv("TDXSTACK_RUNTIME", f"/tmp/tdxp-{os.getpid()}")  # noqa: S108 - sockets need a short path
    yield folder
    for record in lifecycle.list_all():
        lifecycle.delete(record.name, force=True)
    shutil.rmtree(f"/tmp/tdxp-{os.getpid()}", ignore_errors=True)  # noqa: S108
    patch.undo()


@pytest.fixture
def spec(home: Path, tiny_guest: TinyGuest) -> TdSpec:
    return TdSpec(
        name="demo",
        firmware=tiny_guest.firmware,
        kernel=tiny_guest.kernel,
        initrd=tiny_guest.initrd,
        cmdline=tiny_guest.cmdline,
        memory=256 * MIB,
    )


def booted(spec: TdSpec) -> dict[str, str]:
    """MRTD and RTMRs of the TD when its agent is up."""
    lifecycle.create(spec)
    lifecycle.start(spec.name)
    lifecycle.wait_ready(spec.name, BOOT_TIMEOUT)
    registers = lifecycle.registers(spec.name)
    lifecycle.delete(spec.name, force=True)
    return registers


def expected(prediction: Prediction) -> dict[str, str | None]:
    values = {f"rtmr{number}": value.hex() if value else None for number, value in enumerate(prediction.rtmr)}
    return {"mrtd": prediction.mrtd.hex(), **values}


def test_a_plain_td(spec: TdSpec) -> None:
    assert booted(spec) == expected(expect(spec))


def test_a_td_with_more_of_everything(spec: TdSpec, home: Path) -> None:
    disk = home / "disk.qcow2"
    process.run(["qemu-img", "create", "-q", "-f", "qcow2", str(disk), "64M"], timeout=20)
    rich = replace(
        spec,
        vcpus=2,
        memory=3072 * MIB,
        image=disk,
        cmdline=f"{spec.cmdline} vga=normal x",
        devices=("pcie-root-port,id=port1,chassis=1", "virtio-rng-pci,bus=port1"),
    )
    assert booted(rich) == expected(expect(rich))


def test_each_change_moves_its_register_and_no_other(spec: TdSpec, home: Path) -> None:
    changed = home / "initrd"
    assert spec.initrd is not None
    changed.write_bytes(spec.initrd.read_bytes() + bytes(512))
    before = expect(spec)
    after = expect(replace(spec, initrd=changed))
    assert [one == other for one, other in zip(before.rtmr, after.rtmr, strict=True)].count(False) <= 2
    assert booted(replace(spec, initrd=changed)) == expected(after)


def test_the_second_time_the_firmware_is_not_run(spec: TdSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    first = expect(spec)

    def refuse(*_: object) -> None:
        raise AssertionError("the firmware was run again")

    monkeypatch.setattr("tdxstack.vm.acpi_probe._run", refuse)
    assert expect(spec).rtmr == first.rtmr

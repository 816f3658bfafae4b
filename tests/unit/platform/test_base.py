"""Names, parameters and the hardware session's argv."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from tdxstack.errors import PlatformMissing, UsageError
from tdxstack.platform.base import TdParameters, check_name
from tdxstack.platform.linux_host import HardwarePlatform, HardwareTdSession, probe
from tdxstack.wire.tdreport import TdAttributes


@pytest.mark.parametrize("name", ["a", "demo-1", "0x.y_z", "a" * 63])
def test_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "A", "a/b", "-a", "a b", "a" * 64, "ä"])
def test_names_refused(name: str) -> None:
    with pytest.raises(UsageError):
        check_name(name)


def test_parameters_refused() -> None:
    with pytest.raises(UsageError, match="mrowner has 47 bytes"):
        TdParameters(memory_bytes=1, mrowner=bytes(47))
    with pytest.raises(UsageError):
        TdParameters(memory_bytes=0)
    with pytest.raises(UsageError):
        TdParameters(memory_bytes=1, vcpus=0)


@pytest.mark.parametrize(("value", "usable"), [("Y\n", True), ("1\n", True), ("N\n", False), (None, False)])
def test_probe(tmp_path: Path, value: str | None, usable: bool) -> None:
    device = tmp_path / "kvm"
    device.touch()
    parameter = tmp_path / "tdx"
    if value is not None:
        parameter.write_text(value)
    found = probe(parameter, device)
    assert found.usable is usable
    assert str(parameter) in found.reason


def test_probe_without_kvm(tmp_path: Path) -> None:
    assert not probe(tmp_path / "tdx", tmp_path / "kvm").usable


def test_hardware_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tdxstack.platform import linux_host

    monkeypatch.setattr(linux_host, "probe", lambda: linux_host.HostTdx(False, "no silicon"))
    with pytest.raises(PlatformMissing, match="no silicon"):
        HardwarePlatform.open()


def test_hardware_arguments() -> None:
    parameters = TdParameters(memory_bytes=1 << 31, attributes=TdAttributes.SEPT_VE_DISABLE, mrowner=b"o" * 48)
    session = HardwareTdSession(parameters)
    option, text = session.qemu_arguments()
    assert option == "-object"
    assert json.loads(text) == {
        "qom-type": "tdx-guest",
        "id": "tdx0",
        "attributes": 0x10000000,
        "mrowner": base64.b64encode(b"o" * 48).decode(),
        "quote-generation-socket": {"type": "unix", "path": "/var/run/tdx-qgs/qgs.socket"},
    }
    assert session.machine_properties()["confidential-guest-support"] == "tdx0"

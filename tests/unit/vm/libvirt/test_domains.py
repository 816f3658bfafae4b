"""Whose domain is whose, where it may be, and how endings are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from tdxstack.vm.libvirt import domains
from tdxstack.vm.libvirt.domain_xml import device_json
from tdxstack.vm.libvirt.endings import Shutoff, Stopped, ending_of, ending_of_shutoff
from tdxstack.vm.machine import Ending
from tdxstack.vm.spec import TdSpec, Via, VmType


def _spec(**settings: object) -> TdSpec:
    return TdSpec(name="demo", kernel=Path("/k"), via=Via.LIBVIRT, **settings)  # type: ignore[arg-type]


def test_a_domain_belongs_to_a_home_and_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for home in ("one", "two"):
        monkeypatch.setenv("TDXSTACK_HOME", str(tmp_path / home))
        found |= {domains.uuid_of("demo"), domains.uuid_of("other"), domains.uuid_of("demo")}
    assert len(found) == 4


def test_what_needs_a_session() -> None:
    assert domains.is_bound(_spec())
    assert domains.is_bound(_spec(type=VmType.EFI, tpm=True))
    assert not domains.is_bound(_spec(type=VmType.EFI))
    assert not domains.is_bound(_spec(platform="tdx"))


@pytest.mark.parametrize(("shutoff", "stopped"), list(zip(list(Shutoff)[1:8], Stopped, strict=True)))
def test_an_ending_is_the_same_seen_or_found(shutoff: Shutoff, stopped: Stopped) -> None:
    assert shutoff.name == stopped.name
    assert ending_of_shutoff(shutoff) == ending_of(stopped, expected=False)
    assert ending_of(stopped, expected=True) == Ending()


def test_endings() -> None:
    assert ending_of(Stopped.SHUTDOWN, expected=False) == Ending()
    assert "destroyed" in (ending_of(Stopped.DESTROYED, expected=False).reason or "")
    assert ending_of(Stopped.CRASHED, expected=False).fault


def test_devices_as_json() -> None:
    assert device_json("nvme,serial=a,,b,physical=512,drive=d") == (
        '{"driver": "nvme", "serial": "a,b", "physical": 512, "drive": "d"}'
    )
    assert device_json("x,on=off") == '{"driver": "x", "on": false}'
    assert device_json('{"driver": "x"}') == '{"driver": "x"}'

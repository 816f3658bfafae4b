from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tdxstack.errors import PlatformMissing, UsageError
from tdxstack.vm import dialects
from tdxstack.vm.dialects import DIALECTS, by_name, refusals, require
from tdxstack.vm.spec import TdAttributes, TdSpec, VmType

SPEC = TdSpec(name="demo", kernel=Path("/k"))


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_takes_the_defaults(name: str) -> None:
    require(SPEC, by_name(name))


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("upstream", {"debug": True}, r"refuses TD attribute bit 0 \(DEBUG\)"),
        ("upstream", {"attributes": TdAttributes.MIGRATABLE}, r"bit 29 \(MIGRATABLE\)"),
        ("canonical", {"attributes": TdAttributes.PERFMON}, r"bit 63 \(PERFMON\)"),
        ("tdx15", {"quote": "unix:/x"}, "cannot carry quotes by unix"),
        ("software", {"quote": "vsock"}, "cannot carry quotes by vsock"),
        ("upstream", {"hugepages": 2 << 20}, "huge pages"),
    ],
)
def test_what_a_dialect_cannot_do_is_said_before(name: str, changes: dict[str, Any], reason: str) -> None:
    spec = dataclasses.replace(SPEC, **changes)
    with pytest.raises(PlatformMissing, match=reason) as caught:
        require(spec, by_name(name))
    assert caught.value.exit_code == 4
    assert caught.value.hint


def test_all_reasons_at_once() -> None:
    spec = dataclasses.replace(SPEC, debug=True, hugepages=2 << 20)
    assert len(list(refusals(spec, DIALECTS["upstream"]))) == 2


def test_a_plain_machine_is_refused_nothing() -> None:
    spec = dataclasses.replace(SPEC, debug=True, type=VmType.EFI)
    assert not list(refusals(spec, DIALECTS["upstream"]))


def test_unknown_dialect() -> None:
    with pytest.raises(UsageError, match="no dialect 'xen'"):
        by_name("xen")


def test_reset_in_place_by_version() -> None:
    assert dialects.of_version(dialects.UPSTREAM, (10, 2, 0)).reboot is dialects.Reboot.RECREATE
    assert dialects.of_version(dialects.UPSTREAM, (11, 0, 0)).reboot is dialects.Reboot.RESET
    assert dialects.of_version(dialects.CANONICAL, (11, 0, 0)).reboot is dialects.Reboot.RECREATE

"""TDX as a TD's guest sees it."""

from __future__ import annotations

import pytest

from tdxstack.cloud.vmguest import VMGuest
from tdxstack.tdtests.environment import Environment
from tdxstack.tdtests.guest_shell import answer
from tdxstack.vm import lifecycle

pytestmark = pytest.mark.category("environment")


@pytest.mark.requires("tdx-hardware")
def test_tdx_guest_flag(td: VMGuest) -> None:
    assert "tdx_guest" in answer(td, "sed -n 's/^flags[^:]*: //p;T;q' /proc/cpuinfo").split()


def test_tdx_guest_interfaces(env: Environment, td: VMGuest) -> None:
    """Device, quote, event log and registers: each is tried by the guest's agent."""
    checks = lifecycle.call_guest(td.name, "check")["checks"]
    assert [one for one in checks if not one["ok"]] == []
    kind = next(one["detail"] for one in checks if one["name"] == "platform")
    assert (kind == "software") is not env.hardware


def test_tdx_guest_device(td: VMGuest) -> None:
    assert answer(td, "stat -c %F /dev/tdx_guest") == "character special file"


def test_tdx_guest_event_log_table(td: VMGuest) -> None:
    assert answer(td, "head -c4 /sys/firmware/acpi/tables/CCEL") == "CCEL"

"""Figures, kept with the results; no test fails for being slow."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tdxstack.cloud.vmguest import VMGuestFactory
from tdxstack.cloud.vmparam import VM_TYPE_TD
from tdxstack.tdtests.environment import Environment
from tdxstack.tdtests.guest_shell import answer
from tdxstack.vm import lifecycle

pytestmark = pytest.mark.category("perf")


def test_boot_time(
    env: Environment, vm_factory: VMGuestFactory, record_property: Callable[[str, object], None]
) -> None:
    guest = vm_factory.new_vm(VM_TYPE_TD, env.size, platform=env.platform_name)
    guest.create()
    began = time.monotonic()
    guest.start()
    record_property("seconds_to_running", round(time.monotonic() - began, 2))
    guest.wait_for_ssh_ready()
    record_property("seconds_to_ssh", round(time.monotonic() - began, 2))
    lifecycle.wait_ready(guest.name)
    record_property("seconds_to_agent", round(time.monotonic() - began, 2))
    uptime = float(answer(guest, "cat /proc/uptime").split()[0])
    record_property("guest_uptime", uptime)
    assert uptime > 0

"""The time-stamp counter of a TD, which the TDX module virtualises."""

from __future__ import annotations

import re

import pytest

from tdxstack.cloud.vmguest import VMGuest
from tdxstack.tdtests.environment import Environment
from tdxstack.tdtests.guest_shell import answer

pytestmark = pytest.mark.category("environment")
#: A TD's TSC runs at 1 GHz at least where QEMU sets none (TDX module: 100 MHz to 10 GHz, in steps of 25 MHz).
STEP_MHZ, LEAST_MHZ = 25, 1000


@pytest.mark.requires("kvm")
def test_tdvm_clocksource(td: VMGuest) -> None:
    assert answer(td, "cat /sys/devices/system/clocksource/clocksource0/current_clocksource").strip() == "tsc"


@pytest.mark.requires("tdx-hardware")
def test_tdvm_tsc_frequency(env: Environment, td: VMGuest) -> None:
    said = answer(td, "dmesg | grep -m1 'tsc: Detected'")
    match = re.search(r"Detected ([\d.]+) MHz", said)
    assert match is not None
    megahertz = float(match[1])
    base = env.dut.get_cpu_base_freq()
    assert abs(megahertz - STEP_MHZ * round(megahertz / STEP_MHZ)) < 0.5
    assert base is None or abs(megahertz - max(base, LEAST_MHZ)) < STEP_MHZ


def test_tdvm_time_goes_on(td: VMGuest) -> None:
    """Whatever the clock source, it never goes back."""
    program = (
        "from time import *; t=[clock_gettime_ns(CLOCK_MONOTONIC_RAW) for _ in range(20000)]; print(t==sorted(t))"
    )
    assert answer(td, f'python3 -c "{program}"') == "True"

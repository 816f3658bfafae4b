"""What tests say to a guest over ssh."""

from __future__ import annotations

import contextlib
import time

from tdxstack.cloud.vmguest import VMGuest
from tdxstack.errors import ProcessTimeout

COMMAND_TIMEOUT = 300.0
PROBE_TIMEOUT = 30.0
REBOOT_TIMEOUT = 900.0
POWER_OFF_TIMEOUT = 300.0
INTERVAL = 1.0
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"


def answer(guest: VMGuest, command: str, *, timeout: float = COMMAND_TIMEOUT) -> str:
    """What a command prints; it must end with 0."""
    runner = guest.ssh_run(command, timeout=timeout)
    said = "\n".join(runner.stdout)
    assert runner.retcode == 0, f"{command}: {runner.retcode}\n{said}\n" + "\n".join(runner.stderr)
    return said


def boot_id(guest: VMGuest) -> str:
    """What tells one boot from another."""
    return answer(guest, BOOT_ID).strip()


def wait_for_new_boot(guest: VMGuest, before: str) -> None:
    """Wait until the guest answers from another boot than ``before``."""
    deadline = time.monotonic() + REBOOT_TIMEOUT
    while time.monotonic() < deadline:
        # A connection to the boot that ends is never answered: a reset machine tells nobody.
        with contextlib.suppress(ProcessTimeout):
            runner = guest.ssh_run(BOOT_ID, timeout=PROBE_TIMEOUT)
            found = "".join(runner.stdout).strip()
            if runner.retcode == 0 and found and found != before:
                return
        time.sleep(INTERVAL)
    raise AssertionError(f"{guest.name} does not answer from another boot within {REBOOT_TIMEOUT:g} s")

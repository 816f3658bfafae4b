"""Boots of our own images from their disks: predicted in full, and what boots agrees."""

from __future__ import annotations

import pytest

from integration.conftest import Tdxctl

pytestmark = [pytest.mark.integration, pytest.mark.network, pytest.mark.timeout(1800)]
BUILD_TIMEOUT = 900.0
BOOT_TIMEOUT = 360.0


@pytest.mark.parametrize("boot", ["uki", "grub"])
def test_a_boot_from_the_disk(boot: str, tdxctl: Tdxctl) -> None:
    """Our own images: predicted before the first boot, and again from the overlay that it leaves; attested."""
    image = tdxctl.json("image", "build", "--boot", boot, timeout=BUILD_TIMEOUT)["name"]
    name = f"predicted-{boot}"
    tdxctl.ok("td", "create", name, "--image", image, "--boot", boot, "--memory", "1G")
    try:
        before = tdxctl.json("measure", "predict", "--td", name)
        assert all(event["digest"] for event in before["events"]), before["reasons"]
        tdxctl.ok("td", "start", name, "--wait", timeout=BOOT_TIMEOUT)
        replay = tdxctl.json("eventlog", "replay", "--td", name)
        assert replay["problems"] == []
        assert before["rtmr"] == replay["quoted"] == replay["rtmr"]
        assert tdxctl.json("measure", "predict", "--td", name)["rtmr"] == before["rtmr"]
        assert "root=" in tdxctl.ok("td", "exec", name, "--", "cat", "/proc/cmdline")
        assert tdxctl.json("attest", name)["verdict"] == "accepted"
    finally:
        tdxctl.ok("td", "delete", name, "--yes")

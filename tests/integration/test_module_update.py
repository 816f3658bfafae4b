"""The TDX module is replaced while a TD runs on the software platform: white paper, chapter 6 (TD preserving)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from integration.conftest import Tdxctl
from tdxstack.wire.tdreport import TdReport

pytestmark = pytest.mark.integration

PLATFORM, TD = "preserving", "preserved"
BOOT_SECONDS = 400


@pytest.fixture
def running(tdxctl: Tdxctl, quickstart: Any) -> Iterator[str]:
    """A TD on a platform whose module is behind (SVN 4)."""
    td = quickstart["td"]
    tdxctl.ok(
        "platform", "create", PLATFORM, "--module-version", "1.5.06", "--module-svn", "4", "--quote-version", "5"
    )  # fmt: skip
    try:
        tdxctl.ok(
            "td", "create", TD, "--platform", PLATFORM, "--image", td["image"], "--kernel", td["kernel"],
            "--initrd", td["initrd"], "--cmdline", td["cmdline"], "--memory", "768M",
            "--firmware", quickstart["firmware"]["path"],
        )  # fmt: skip
        tdxctl.ok("td", "start", TD, "--wait", "--timeout", str(BOOT_SECONDS), timeout=BOOT_SECONDS + 60)
        yield TD
    finally:
        tdxctl("td", "delete", TD, "--yes")
        tdxctl("platform", "delete", PLATFORM, "--yes")


def _report(tdxctl: Tdxctl) -> TdReport:
    """A new TDREPORT, asked for inside the guest."""
    document = json.loads(tdxctl.ok("td", "exec", TD, "--", "tdxctl", "guest", "report", "--json"))
    return TdReport.from_bytes(bytes.fromhex(document["report"]))


def _statuses(tdxctl: Tdxctl) -> tuple[str, str, list[str]]:
    """(status of the quote, status of the module that runs now, registers) of fresh evidence."""
    done = tdxctl("attest", TD, "--json", timeout=300)
    assert done.returncode == 3, done.stderr
    document = json.loads(done.stdout)
    verification = document["verification"]
    assert verification["authentic"] is True
    registers = [document["mrtd"]["quoted"], *(one["quoted"] for one in document["rtmr"])]
    return verification["status"], verification["current_status"], registers


def test_the_module_is_replaced_while_a_td_runs(tdxctl: Tdxctl, running: str) -> None:
    started = tdxctl.ok("td", "exec", running, "--", "cat", "/proc/sys/kernel/random/boot_id")
    before, (status, _, registers) = _report(tdxctl), _statuses(tdxctl)
    assert status == "OutOfDate"
    assert before.tee_tcb_info.tee_tcb_svn[0] == 4

    for release, words in (("2.0.01", "another line"), ("1.5.05", "older")):
        refused = tdxctl("module", "update", "--platform", PLATFORM, "--release", release, "--svn", "9", "--yes")
        assert refused.returncode == 1
        assert words in refused.stderr
    same = _report(tdxctl)
    assert same.tee_tcb_info.tee_tcb_svn2 == before.tee_tcb_info.tee_tcb_svn2

    update = ("module", "update", "--platform", PLATFORM, "--release", "1.5.16", "--svn", "5")
    tdxctl.ok(*update, "--dry-run")
    assert _report(tdxctl).tee_tcb_info.tee_tcb_svn2 == before.tee_tcb_info.tee_tcb_svn2
    tdxctl.ok(*update, "--yes")

    after = _report(tdxctl)
    assert after.td_info == before.td_info
    assert after.tee_tcb_info.tee_tcb_svn == before.tee_tcb_info.tee_tcb_svn
    assert after.tee_tcb_info.tee_tcb_svn2[0] == 5
    assert _statuses(tdxctl) == ("TDRelaunchAdvised", "UpToDate", registers)
    assert tdxctl.ok("td", "exec", running, "--", "cat", "/proc/sys/kernel/random/boot_id") == started

"""The TDX module is replaced while TDs run on the software platform: white paper, chapter 6 (TD preserving).

A Linux TD that attests itself by its own agent, and small ones whose TDREPORTs are quoted by their QGS, all on one
platform whose module is behind (SVN 4).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from integration.conftest import Tdxctl
from td_home import small
from tdxstack.dcap import Collateral, Verifier
from tdxstack.platform import qgs_client
from tdxstack.platform.software.platform import SoftwarePlatform
from tdxstack.vm import lifecycle
from tdxstack.vm.state import State
from tdxstack.wire.tdreport import TdReport
from tiny_guest import TinyGuest, tiny_guest

__all__ = ["tiny_guest"]
pytestmark = pytest.mark.integration

PLATFORM, LINUX, SMALL, LATE = "preserving", "preserved", ("preserved-1", "preserved-2"), "after-the-update"
BOOT_SECONDS = 400.0


class Seen(NamedTuple):
    """What a TD shows at a moment: which boot it is, its TDREPORT, and the status of a quote of it."""

    boot: str
    report: TdReport
    status: str


class Fleet:
    """The platform's TDs."""

    def __init__(self, tdxctl: Tdxctl, tiny_guest: TinyGuest) -> None:
        self.tdxctl, self.tiny_guest = tdxctl, tiny_guest

    def start_linux(self, quickstart: Any) -> None:
        td = quickstart["td"]
        self.tdxctl.ok(
            "td", "create", LINUX, "--platform", PLATFORM, "--image", td["image"], "--kernel", td["kernel"],
            "--initrd", td["initrd"], "--cmdline", td["cmdline"], "--memory", "768M",
            "--firmware", quickstart["firmware"]["path"],
        )  # fmt: skip
        self.tdxctl.ok("td", "start", LINUX)

    def start_small(self, *names: str) -> None:
        for name in names:
            lifecycle.create(replace(small(name, self.tiny_guest), platform=PLATFORM))
            lifecycle.start(name)

    def wait(self, *names: str) -> None:
        for name in names:
            lifecycle.wait_ready(name, BOOT_SECONDS)

    def see(self) -> dict[str, Seen]:
        return {LINUX: self._see_linux(), **{name: self.see_small(name) for name in SMALL}}

    def see_small(self, name: str) -> Seen:
        answer = lifecycle.call_guest(name, "report", timeout=60)
        raw = bytes.fromhex(answer["report"])
        quote = asyncio.run(qgs_client.get_quote(lifecycle.status(name).place.run_dir / "qgs.sock", raw))
        platform = SoftwarePlatform.open(PLATFORM)
        collateral = Collateral.from_json(json.dumps(platform.collateral()))
        result = Verifier(collateral, [platform.trust_root()]).verify(quote, now=int(time.time()))
        assert result.authentic
        return Seen(answer["boot"], TdReport.from_bytes(raw), str(result.status))

    def _see_linux(self) -> Seen:
        """By the commands in the guest, and by attestation from outside."""
        boot = self.tdxctl.ok("td", "exec", LINUX, "--", "cat", "/proc/sys/kernel/random/boot_id")
        document = json.loads(self.tdxctl.ok("td", "exec", LINUX, "--", "tdxctl", "guest", "report", "--json"))
        report = TdReport.from_bytes(bytes.fromhex(document["report"]))
        done = self.tdxctl("attest", LINUX, "--json", timeout=300)
        assert done.returncode == 3, done.stderr
        attested = json.loads(done.stdout)
        assert attested["verification"]["authentic"] is True
        registers = [attested["mrtd"]["quoted"], *(one["quoted"] for one in attested["rtmr"])]
        assert registers == [one.hex() for one in (report.td_info.mr_td, *report.td_info.rtmrs)]
        return Seen(boot, report, attested["verification"]["status"])

    def update(self, *words: str) -> tuple[int, str]:
        done = self.tdxctl("module", "update", "--platform", PLATFORM, *words)
        return done.returncode, done.stderr


@pytest.fixture
def fleet(tdxctl: Tdxctl, quickstart: Any, tiny_guest: TinyGuest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    monkeypatch.setenv("TDXSTACK_HOME", str(tdxctl.home))
    tdxctl.ok(
        "platform", "create", PLATFORM, "--module-version", "1.5.06", "--module-svn", "4", "--quote-version", "5"
    )  # fmt: skip
    fleet = Fleet(tdxctl, tiny_guest)
    try:
        fleet.start_linux(quickstart)
        fleet.start_small(*SMALL)
        fleet.wait(*SMALL, LINUX)
        yield fleet
    finally:
        for name in (LINUX, *SMALL, LATE):
            tdxctl("td", "delete", name, "--yes")
        tdxctl("platform", "delete", PLATFORM, "--yes")


def test_the_module_is_replaced_while_tds_run(fleet: Fleet) -> None:
    before = fleet.see()
    assert {one.status for one in before.values()} == {"OutOfDate"}
    assert {one.report.tee_tcb_info.tee_tcb_svn2[0] for one in before.values()} == {4}
    assert all(any(one.report.td_info.rtmrs) for one in before.values())

    refusals = {
        ("--release", "2.0.01", "--svn", "9"): "another line",
        ("--release", "1.5.05", "--svn", "9"): "older",
        ("--release", "1.5.16", "--svn", "3"): "SVN 4 or higher",
    }
    for words, reason in refusals.items():
        status, told = fleet.update(*words, "--yes")
        assert (status, reason in told) == (1, True), told
    newer = ("--release", "1.5.16", "--svn", "5")
    assert fleet.update(*newer, "--dry-run")[0] == 0
    for name in SMALL:
        assert fleet.see_small(name)._replace(report=before[name].report) == before[name]
        assert fleet.see_small(name).report.tee_tcb_info == before[name].report.tee_tcb_info
    assert all(lifecycle.status(name).state is State.RUNNING for name in before)

    assert fleet.update(*newer, "--yes")[0] == 0
    after = fleet.see()
    for name, now in after.items():
        then = before[name]
        assert now.boot == then.boot, name
        assert now.report.td_info == then.report.td_info, name
        assert now.report.tee_tcb_info.tee_tcb_svn == then.report.tee_tcb_info.tee_tcb_svn, name
        assert now.report.tee_tcb_info.tee_tcb_svn2[0] == 5, name
        assert now.status == "TDRelaunchAdvised", name

    assert "older" in fleet.update("--release", "1.5.06", "--svn", "4", "--yes")[1]
    fleet.start_small(LATE)
    fleet.wait(LATE)
    late = fleet.see_small(LATE)
    assert (late.status, late.report.tee_tcb_info.tee_tcb_svn[0]) == ("UpToDate", 5)
    assert late.report.td_info.rtmrs == after[SMALL[0]].report.td_info.rtmrs

"""``tdxctl test stack``: a short selection for every day, and the whole of it."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from integration.conftest import Tdxctl

pytestmark = pytest.mark.integration
SELECTION = (
    "test_tdvm_lifecycle::test_tdvm_suspend_resume",
    "test_vm_shutdown_mode::test_vm_shutdown_mode[td-acpi]",
    "test_tdx_guest_status",
    "test_tdvm_network",
    "test_report",
    "test_tdvm_tsc",
)
SELECTION_SECONDS, ALL_SECONDS = 900, 7200
#: Table 6 of the white paper.
TABLE_6 = {
    *("tdvm_lifecycle", "multiple_tdvms", "vm_coexist", "max_cpu", "vm_shutdown_mode", "acpi_reboot"),
    *("acpi_shutdown", "vm_shutdown_qga", "vm_reboot_qga", "tdvm_tsc", "tdx_guest_status", "tdx_host_status"),
    *("tdvm_network", "workload_redis", "workload_nginx", "amx_docker_tf", "amx_vm_tf"),
}
#: Tests that fail, each with a TD.
OWN_MODULE = """
import pytest
pytestmark = pytest.mark.category("own")

def test_of_a_machine_of_its_own(vm_factory):
    assert vm_factory.new_vm("td", auto_start=True).state == "on purpose"

def test_of_the_shared_td(td):
    td.ssh_run("echo by the test >/root/left")
    assert td.state == "on purpose"
"""
AREAS = {"boot", "eventlog", "guest", "quote", "report", "stress", "perf", "vsock"}


def _results(tdxctl: Tdxctl, folder: Path, *words: str, seconds: float) -> tuple[dict[str, Any], int]:
    done = tdxctl(
        "test", "stack", *words, "--json", "--junit", str(folder / "j.xml"), "--results", str(folder / "r.json"),
        timeout=seconds,
    )  # fmt: skip
    assert done.stdout, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    assert json.loads((folder / "r.json").read_text()) == found
    cases = ElementTree.parse(folder / "j.xml").getroot().findall(".//testcase")  # noqa: S314 - our own file
    assert len(cases) == len(found["tests"])
    assert not [one for one in found["tests"] if one["outcome"] in ("failed", "error")], done.stderr[-5000:]
    return found, done.returncode


@pytest.mark.timeout(SELECTION_SECONDS + 60)
def test_a_selection(tdxctl: Tdxctl, quickstart: Any, tmp_path: Path) -> None:
    del quickstart
    words = [word for one in SELECTION for word in ("-c", one)]
    found, status = _results(tdxctl, tmp_path, "-g", "debian", *words, seconds=SELECTION_SECONDS)
    assert (status, found["schema"], found["hardware"]) == (0, "tdxstack/stack-results/v1", False)
    assert found["summary"]["passed"] >= 12
    skipped = {one["test"]: one["reason"] for one in found["tests"] if one["outcome"] == "skipped"}
    assert "software platform" in skipped["test_tdx_guest_flag"]
    assert tdxctl.json("td", "list")["tds"] == [
        one for one in tdxctl.json("td", "list")["tds"] if one["name"].startswith("quickstart")
    ]


def test_the_list(tdxctl: Tdxctl) -> None:
    found = tdxctl.json("test", "stack", "--list")["tests"]
    assert {one["module"] for one in found} == {f"test_{name}" for name in (*TABLE_6, *AREAS)}
    assert all(one["category"] for one in found)
    assert all(one["skipped"] for one in found if "tdx-hardware" in one["requires"])


def test_nothing_to_run(tdxctl: Tdxctl) -> None:
    assert tdxctl("test", "stack", "-c", "no_such_module").returncode == 2
    absent = tdxctl("test", "stack", "-c", "test_report::no_such_test")
    assert (absent.returncode, "no_such_test" in absent.stderr) == (2, True)
    only_skipped = tdxctl("test", "stack", "-c", "test_amx_vm_tf", "--json")
    assert only_skipped.returncode == 4
    assert {one["outcome"] for one in json.loads(only_skipped.stdout)["tests"]} == {"skipped"}


def test_a_guest_that_cannot_be_had(tdxctl: Tdxctl) -> None:
    if Path("/etc/rhsm/ca/redhat-uep.pem").exists():
        pytest.skip("this host may have RHEL's subscription")
    done = tdxctl("test", "stack", "-g", "rhel", "-c", "test_report", "--json")
    assert (done.returncode, json.loads(done.stdout)["error"]) == (4, "PlatformMissing")
    assert "subscription" in done.stderr and "latest-guest-image-rhel" in done.stderr
    assert tdxctl("test", "stack", "-g", "suse").returncode == 2
    assert tdxctl.json("test", "stack", "-g", "rhel", "--list")["tests"]


def _failing(tdxctl: Tdxctl, folder: Path, *words: str) -> dict[str, Any]:
    """The results of one test that fails, of a module of the user's own."""
    module = folder / "test_of_my_own.py"
    module.write_text(OWN_MODULE)
    file = str(folder / "j.xml")
    done = tdxctl("test", "stack", "-c", f"{module}::{words[0]}", "--json", "--junit", file, *words[1:], timeout=600)
    found: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode, found["summary"]["failed"]) == (1, 1), done.stderr[-3000:]
    assert "on purpose" in found["tests"][0]["reason"]
    assert len(ElementTree.parse(file).getroot().findall(".//testcase/failure")) == 1  # noqa: S314 - our own file
    assert [name for name in found["kept"] if f"tdxctl td delete {name} --yes" not in done.stderr] == []
    return found


def test_the_machine_of_a_failed_test_is_kept(tdxctl: Tdxctl, quickstart: Any, tmp_path: Path) -> None:
    del quickstart
    before = {one["name"] for one in tdxctl.json("td", "list")["tds"]}
    assert _failing(tdxctl, tmp_path, "test_of_a_machine_of_its_own")["kept"] == []
    assert {one["name"] for one in tdxctl.json("td", "list")["tds"]} == before
    (name,) = _failing(tdxctl, tmp_path, "test_of_a_machine_of_its_own", "--keep-vm")["kept"]
    assert tdxctl.json("td", "show", name)["state"] == "running"
    tdxctl.ok("td", "delete", name, "--yes")
    assert {one["name"] for one in tdxctl.json("td", "list")["tds"]} == before


@pytest.mark.slow
def test_the_shared_machine_of_a_failed_test_is_kept(tdxctl: Tdxctl, quickstart: Any, tmp_path: Path) -> None:
    del quickstart
    (name,) = _failing(tdxctl, tmp_path, "test_of_the_shared_td", "-k")["kept"]
    assert tdxctl.ok("td", "exec", name, "--", "cat", "/root/left").strip() == "by the test"
    tdxctl.ok("td", "delete", name, "--yes")


@pytest.mark.slow
@pytest.mark.timeout(ALL_SECONDS + 60)
def test_all(tdxctl: Tdxctl, quickstart: Any, tmp_path: Path) -> None:
    del quickstart
    found, status = _results(tdxctl, tmp_path, "-s", "all", seconds=ALL_SECONDS)
    assert status == 0
    passed = {one["module"] for one in found["tests"] if one["outcome"] == "passed"}
    needs_more = {"test_amx_docker_tf", "test_amx_vm_tf", "test_vsock"}
    assert passed | needs_more >= {f"test_{name}" for name in (*TABLE_6, *AREAS)}

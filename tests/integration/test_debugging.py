"""A TD under gdb, and what its host sees of its memory."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.conftest import Tdxctl

pytestmark = pytest.mark.integration
NAME = "debugged"
GDB_SECONDS = 600


@pytest.fixture
def debugged(tdxctl: Tdxctl, quickstart: Any) -> Iterator[str]:
    """A TD that stands still before its first instruction."""
    tdxctl.ok("td", "create", NAME, "--image", Path(quickstart["td"]["image"]).parent.name, "--memory", "1G")
    try:
        tdxctl.ok("td", "start", NAME, "--debug")
        yield NAME
    finally:
        tdxctl("td", "delete", NAME, "--yes")


def test_gdb(tdxctl: Tdxctl, debugged: str) -> None:
    """A hardware breakpoint at start_kernel is hit, by the name that the kernel itself has for it."""
    if not shutil.which("gdb"):
        pytest.skip("gdb is not installed")
    assert tdxctl.json("td", "show", debugged)["state"] == "paused"
    argv = tdxctl.json("td", "start", debugged, "--dry-run")["argv"]
    assert argv[argv.index("-append") + 1].split()[-1] == "nokaslr"
    steps = ["continue", "backtrace", "print $pc == (long) &start_kernel", "x/s &linux_banner"]
    said = tdxctl.ok(
        "td", "gdb", debugged, "--batch", *(word for step in steps for word in ("--ex", step)), timeout=GDB_SECONDS
    )
    assert re.search(r"Breakpoint 1, 0xffffffff[0-9a-f]+ in start_kernel", said)
    assert "in x86_64_start_kernel" in said
    assert "$1 = 1" in said
    assert '"Linux version ' in said
    tdxctl.ok("td", "wait", debugged, "--timeout", "600", timeout=660)


def test_symbols_of_a_given_file(tdxctl: Tdxctl, debugged: str) -> None:
    absent = tdxctl("td", "gdb", debugged, "--symbols", "/no/vmlinux")
    assert (absent.returncode, "no file /no/vmlinux" in absent.stderr) == (2, True)
    line = tdxctl.ok("td", "gdb", debugged, "--dry-run", "--break", "panic")
    assert "hbreak panic" in line
    assert "target remote" in line


def test_check_encryption(tdxctl: Tdxctl, quickstart: Any) -> None:
    """On the software platform nothing is encrypted, and it says so."""
    done = tdxctl("td", "check-encryption", quickstart["td"]["name"], "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 1
    assert found["schema"] == "tdxstack/td-encryption/v1"
    assert (found["verdict"], found["encrypted"]) == ("not encrypted", False)
    assert found["pieces_seen"] > found["pieces_compared"] // 4
    assert found["kernel_text"] == found["vmm_sees"]
    assert "software" in found["reason"]


def test_audit_from_the_host(tdxctl: Tdxctl, quickstart: Any) -> None:
    name = quickstart["td"]["name"]
    done = tdxctl("guest", "audit", "--td", name, "--json")
    found = json.loads(done.stdout)
    assert done.returncode == (0 if found["ok"] else 1)
    verdicts = {item["driver"] or item["id"]: item["verdict"] for item in found["items"]}
    assert verdicts["virtio_blk"] == verdicts["virtio_net"] == verdicts["CCEL"] == "allowed"
    assert verdicts["virtio_rng"] == "not allowed"
    names = {item["driver"] or item["id"] for item in found["items"] if item["verdict"] == "not allowed"}
    allow = [word for one in sorted(names) for word in ("--allow", one)]
    assert tdxctl("guest", "audit", "--td", name, *allow).returncode == 0


def test_files_of_the_kernel_are_copied_to_their_end(tdxctl: Tdxctl, quickstart: Any, tmp_path: Path) -> None:
    """The firmware's log has no end for who reads beyond it; its size is told as 0."""
    name, log = quickstart["td"]["name"], "/sys/kernel/security/tpm0/binary_bios_measurements"
    copied = tdxctl.json("td", "copy", name, f":{log}", str(tmp_path))
    assert (copied["schema"], copied["from"]) == ("tdxstack/td-copied/v1", f":{log}")
    digest = hashlib.sha256((tmp_path / Path(log).name).read_bytes()).hexdigest()
    assert tdxctl.ok("td", "exec", name, "--", "sha256sum", log).split()[0] == digest
    refused = tdxctl("td", "copy", name, ":/sys/kernel", str(tmp_path))
    assert (refused.returncode, "one by one" in refused.stderr) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == [Path(log).name]

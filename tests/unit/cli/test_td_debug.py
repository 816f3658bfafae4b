"""``td start --debug``, ``td gdb`` and ``td check-encryption`` as far as no machine is needed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tdxstack.cli.main import main
from tdxstack.vm import lifecycle

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def defined(tmp_path: Path, capsys: Capture) -> str:
    """A machine that could start, without TDX."""
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(b"kernel")
    options = ["--type", "legacy", "--accelerator", "tcg", "--cmdline", "console=ttyS0", "--memory", "256M"]
    assert main(["td", "create", "demo", "--kernel", str(kernel), *options]) == 0
    capsys.readouterr()
    return "demo"


def test_what_a_debugged_start_would_do(defined: str, capsys: Capture) -> None:
    assert main(["td", "start", defined, "--debug", "--dry-run", "--json"]) == 0
    argv = json.loads(capsys.readouterr().out)["argv"]
    assert argv[argv.index("-append") + 1] == "console=ttyS0 nokaslr"
    assert "chardev:gdb" in argv
    assert not lifecycle.status(defined).spec.debug, "a dry run changes nothing"
    assert main(["td", "start", defined, "--dry-run", "--json"]) == 0
    assert "chardev:gdb" not in json.loads(capsys.readouterr().out)["argv"]


def test_a_dialect_that_is_none(defined: str, capsys: Capture) -> None:
    assert main(["td", "start", defined, "--dialect", "nosuch", "--dry-run"]) == 2
    assert "tdx15, canonical" in capsys.readouterr().err


def test_a_debugged_guest_cannot_be_waited_for(defined: str, capsys: Capture) -> None:
    assert main(["td", "start", defined, "--debug", "--wait"]) == 2
    assert "waits for gdb" in capsys.readouterr().err


@pytest.mark.processes
def test_a_dialect_that_refuses_debugging(tmp_path: Path, capsys: Capture) -> None:
    assert main(["td", "create", "hard", "--kernel", str(tmp_path), "--dialect", "upstream"]) == 2
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(b"kernel")
    assert main(["td", "create", "hard", "--kernel", str(kernel), "--dialect", "upstream"]) == 0
    assert main(["td", "start", "hard", "--dialect", "canonical", "--debug"]) == 4
    assert "Ubuntu's TDX preview refuses" in capsys.readouterr().err
    assert lifecycle.status("hard").spec.dialect == "upstream", "what is refused is not kept"
    assert main(["td", "start", "hard", "--debug"]) == 4
    assert "attribute bit 0 (DEBUG)" in capsys.readouterr().err
    assert not lifecycle.status("hard").spec.debug, "what is refused is not kept"


def test_what_needs_a_machine_that_runs(defined: str, capsys: Capture) -> None:
    assert main(["td", "gdb", defined]) == 1
    assert "next: tdxctl td start demo --debug" in capsys.readouterr().err
    assert main(["td", "check-encryption", defined, "--json"]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["schema"] == "tdxstack/error/v1"
    assert "while defined" in said.err
    assert main(["td", "check-encryption", "absent"]) == 2

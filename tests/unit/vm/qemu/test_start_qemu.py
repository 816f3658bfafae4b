"""The white paper's launcher: golden argument lists, one word per line, in tests/golden/start-qemu."""

from __future__ import annotations

import json
import os
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tdxstack.cli.main import main
from tdxstack.errors import UsageError
from tdxstack.vm import choose, lifecycle
from tdxstack.vm.qemu.start_qemu import Machine, Options, tdx15_argv, to_spec
from tdxstack.vm.spec import TdSpec
from tdxstack.vm.spec_rules import checked

GOLDEN = Path(__file__).resolve().parents[3] / "golden" / "start-qemu"
OPTIONS = Options(image=Path("/images/td.qcow2"), kernel=Path("/images/vmlinuz"))
MACHINE = Machine(
    qemu=Path("/usr/bin/qemu-system-x86_64"),
    legacy_firmware=Path("/usr/share/seabios/bios.bin"),
    image_format="qcow2",
    log=Path("/logs/vm_log_2023-09-21T1200.log"),
    megahertz=2000.0,
)
CASES: dict[str, dict[str, Any]] = {
    "td-direct": {},
    "td-grub-serial": {"boot": "grub", "serial": True},
    "td-debug": {"debug": True, "extra": "ima_hash=sha384 ima_policy=critical_data"},
    "td-tdvmcall": {"quote": "tdvmcall", "mac": "52:54:00:12:34:56", "vcpus": 8, "monitor_port": 9002},
    "td-vsock": {"quote": "vsock", "mrownerconfig": "ab" * 48, "root": "/dev/vda3"},
    "td-hugepages": {"hugepages": "/dev/hugepages", "network": "10.1.0.0/16", "dhcp_start": "10.1.0.9"},
    "efi-vsock": {"type": "efi", "vsock": True},
    "legacy": {"type": "legacy"},
    "td-everything": {
        **{"debug": True, "serial": True, "vsock": True, "quote": "tdvmcall", "mrownerconfig": "cd" * 48, "vcpus": 4},
        **{"hugepages": "/dev/hugepages", "network": "10.1.0.0/16", "dhcp_start": "10.1.0.9", "extra": "quiet a=b"},
        **{"ssh_port": 10100, "monitor_port": 9100, "mac": "52:54:00:12:34:56", "root": "/dev/vda3"},
    },
}


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str) -> None:
    text = "\n".join(tdx15_argv(replace(OPTIONS, **CASES[case]).check(), MACHINE)) + "\n"
    path = GOLDEN / f"{case}.txt"
    if os.environ.get("TDXSTACK_WRITE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def test_a_slow_clock_gets_a_tsc_of_one_gigahertz() -> None:
    slow = replace(MACHINE, megahertz=800.0)
    assert "host,-kvm-steal-time,pmu=off,tsc-freq=1000000000" in tdx15_argv(OPTIONS, slow)
    assert "tsc-freq" not in " ".join(tdx15_argv(replace(OPTIONS, type="efi"), slow))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"monitor_port": 0}, "-p 0 is no port"),
        ({"ssh_port": 70000}, "-f 70000 is no port"),
        ({"ssh_port": 9001}, "both want port 9001"),
        ({"vcpus": 0}, "no number of vCPUs"),
        ({"mac": "52:54"}, "is not a MAC"),
        ({"mrownerconfig": "00"}, "needs 96 hex digits, got 2"),
        ({"mrownerconfig": "00" * 48, "type": "efi"}, "for TDs only"),
    ],
)
def test_what_the_script_did_not_check(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(OPTIONS, **changes).check()


@pytest.mark.parametrize("case", CASES)
def test_every_case_is_a_specification_too(case: str) -> None:
    spec = checked(to_spec(replace(OPTIONS, **CASES[case]), "x", firmware=None))
    assert TdSpec.from_mapping(spec.to_mapping()) == spec


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, kernel = tmp_path / "i,1.img", tmp_path / "k"
    image.write_bytes(b"QFI\xfb")
    argv = [
        "start-qemu",
        "-i",
        str(image),
        "-k",
        str(kernel),
        "-b",
        "grub",
        "--dialect",
        "tdx15",
        "--dry-run",
        "--json",
    ]
    assert main(argv) == 0
    captured = capsys.readouterr()
    words = json.loads(captured.out)["argv"]
    doubled = str(image).replace(",", ",,")
    assert words[words.index("-drive") + 1] == f"file={doubled},if=virtio,format=qcow2"
    assert words.count("-monitor") == 1
    assert "GRUB's menu takes no keys" in captured.err


def _argv(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[list[str], str]:
    assert main(["start-qemu", *words, "--dry-run", "--json"]) == 0
    captured = capsys.readouterr()
    argv: list[str] = json.loads(captured.out)["argv"]
    return argv, captured.err


def _machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options that name an image, a kernel and a firmware that are there; no accelerator is tried."""
    monkeypatch.setattr(choose, "accelerator", lambda spec: "tcg")
    for name in ("i.qcow2", "k", "fw"):
        (folder / name).write_bytes(b"QFI\xfb")
    return ["-i", str(folder / "i.qcow2"), "-k", str(folder / "k"), "-o", str(folder / "fw")]


@pytest.mark.processes
def test_what_the_other_dialects_make_of_the_network_and_the_console(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = [*_machine(tmp_path, monkeypatch), "-t", "efi"]
    network = ["-n", "10.1.0.0/16", "-a", "10.1.0.9"]
    words, err = _argv([*base, *network, "-s", "-p", "9100", "--dialect", "upstream"], capsys)
    assert words[words.index("-netdev") + 1].startswith("user,id=net0,net=10.1.0.0/16,dhcpstart=10.1.0.9,hostfwd=")
    assert words[words.index("-append") + 1] == "root=/dev/vda1 rw console=ttyS0"
    assert "-p is for the dialect tdx15" in err
    words, _ = _argv([*base, "--dialect", "upstream"], capsys)
    assert words[words.index("-netdev") + 1].startswith("user,id=net0,hostfwd=")
    assert words[words.index("-append") + 1] == "root=/dev/vda1 rw console=hvc0"
    assert main(["start-qemu", *base, *network[:2], "--dialect", "upstream", "--dry-run"]) == 2
    assert "10.0.2.15 is not in 10.1.0.0/16" in capsys.readouterr().err
    _, err = _argv([*base, *network[:2], "--dialect", "tdx15"], capsys)
    assert "QEMU will refuse -n 10.1.0.0/16 -a 10.0.2.15" in err


def test_a_missing_image_is_said_before_the_launch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["start-qemu", "-i", str(tmp_path / "none"), "--dialect", "tdx15"]) == 2
    assert "no such file" in capsys.readouterr().err


@pytest.mark.processes
def test_another_dialect_runs_the_same_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = ["start-qemu", *_machine(tmp_path, monkeypatch)]
    assert main([*base, "-t", "efi", "--dialect", "upstream", "--dry-run", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["dialect"] == "upstream"
    assert "hostfwd=tcp:127.0.0.1:10026-:22" in " ".join(document["argv"])
    assert main([*base, "-d", "--dialect", "upstream", "--dry-run"]) == 4
    assert "refuses TD attribute bit 0" in capsys.readouterr().err


@pytest.mark.parametrize("dialect", ["tdx15", "software"])
def test_a_missing_firmware_is_told_by_its_letter(
    dialect: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, kernel = tmp_path / "disk.qcow2", tmp_path / "vmlinuz"
    image.touch()
    kernel.touch()
    words = ["start-qemu", "-i", str(image), "-k", str(kernel), "-o", str(tmp_path / "none"), "--dialect", dialect]
    assert main(words) == 2
    assert f"-o {tmp_path / 'none'}: no such file" in capsys.readouterr().err


def test_a_way_to_quotes_of_a_machine_that_has_none(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["start-qemu", "-t", "efi", "-q", "tdvmcall", "--dialect", "tdx15", "--dry-run", "--json"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "-q tdvmcall means nothing to -t efi" in said.err
    assert not any("quote-generation" in word for word in json.loads(said.out)["argv"])


@pytest.mark.processes
def test_a_launch_that_fails_leaves_no_td(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its logs are gone with it, so no hint leads there."""
    if not shutil.which("qemu-system-x86_64"):
        pytest.skip("no QEMU here")
    image, kernel = tmp_path / "disk.raw", tmp_path / "vmlinuz"
    image.write_bytes(bytes(1 << 20))
    kernel.write_bytes(b"no kernel")
    with socket.socket() as holder:
        # Bound and not listening, with this option: nobody else is given the port, and QEMU can take it.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port = str(holder.getsockname()[1])
        words = ["-i", str(image), "-k", str(kernel), "-t", "legacy", "-f", port, "--dialect", "software"]
        assert main(["start-qemu", *words]) == 1
    said = capsys.readouterr().err
    assert "invalid kernel header" in said and "--dry-run" in said and "td logs" not in said
    assert lifecycle.list_all() == []

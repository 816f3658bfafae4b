"""Trees that no capture made are read as well: each host of the catalogue, with registers and log in every form."""

from __future__ import annotations

from pathlib import Path

import pytest

from hand_made import LOGS, REGISTERS, by_hand
from host_trees import CASES, Case, Tree
from tdxstack.cli.main import main
from tdxstack.platform.linux_host_source import open_host
from tdxstack.preflight import report, tree
from tdxstack.preflight.host import Host

BY_NAME = {case.name: case for case in CASES}
#: What a tree cannot tell without a question to QEMU, libvirt or systemd, or without registers.
ASKED = {"libvirt.tdx", "qemu.same_stack", "libvirt.matches_qemu", "qemu.reboot"}
IN_REGISTERS = {"firmware.tdx", "firmware.seamrr_lock", "cpu.production", "attestation.environment"}


def _write(made: Tree, root: Path) -> Path:
    for path, content in made.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return root


def _outcomes(root: Path) -> tuple[dict[str, str], int]:
    results = tree.check_host(Host(open_host(root)))
    outcomes = {one.check.id: one.outcome.value for one in report.everything(results)}
    return outcomes, int(report.exit_code(results, tree.HOST_ROOTS))


@pytest.mark.parametrize("registers", REGISTERS)
@pytest.mark.parametrize("name", ["good-upstream", "good-1.5"])
def test_a_good_host_by_hand(name: str, registers: str, tmp_path: Path) -> None:
    for log in LOGS:
        outcomes, code = _outcomes(_write(by_hand(BY_NAME[name].build(), registers, log), tmp_path / log))
        assert [one for one, outcome in outcomes.items() if outcome == "fail"] == []
        assert code == 0


@pytest.mark.parametrize("case", [case for case in CASES if case.exit], ids=lambda case: case.name)
def test_a_problem_by_hand(case: Case, tmp_path: Path) -> None:
    for registers, log in zip(REGISTERS, [*LOGS] * 2, strict=False):
        beyond = ASKED | (IN_REGISTERS if registers == "none" else set())
        named = {one for one, outcome in case.expected.items() if outcome == "fail"} - beyond
        outcomes, code = _outcomes(_write(by_hand(case.build(), registers, log), tmp_path / registers))
        assert {one for one in named if outcomes[one] not in ("fail", "skip")} == set(), (registers, log)
        assert code == case.exit or not named, (registers, log)


def test_the_drift_of_names_shows_in_a_log(tmp_path: Path) -> None:
    made = by_hand(BY_NAME["good-upstream"].build(), "flat", "text")
    made["var/log/libvirt/qemu/td1.log"] = (
        b"qemu-system-x86_64: Property 'tdx-guest.quote-generation-service' not found\n"
    )
    outcomes, code = _outcomes(_write(made, tmp_path))
    assert (outcomes["logs.signs"], code) == ("fail", 1)


@pytest.mark.parametrize("name", ["qgs.log", "pccs.txt", "var/log/syslog"])
def test_a_refused_certificate_shows_in_a_log(name: str, tmp_path: Path) -> None:
    made = by_hand(BY_NAME["good-upstream"].build(), "flat", "dmesg")
    made[name] = b"[QCNL] Encountered CURL error: (60) SSL peer certificate or SSH remote key was not OK. 0xb033\n"
    outcomes, code = _outcomes(_write(made, tmp_path))
    assert (outcomes["logs.signs"], code) == ("fail", 1)


def test_nothing_at_all_is_held_to_be_well(tmp_path: Path) -> None:
    made = by_hand(BY_NAME["good-upstream"].build(), "none", "text")
    for path in ("dmesg.txt", "sys/devices/faux/tdx_host/version"):
        del made[path]
    outcomes, code = _outcomes(_write(made, tmp_path))
    assert (outcomes["firmware.tdx"], outcomes["module.loaded"], code) == ("fail", "fail", 1)


def test_an_image_at_the_registers_own_numbers(tmp_path: Path) -> None:
    image = bytearray(0x1409)
    image[0x1401:0x1409] = (0x3FFFFFE000C00).to_bytes(8, "little")
    source = open_host(_write({"dev/cpu/3/msr": bytes(image)}, tmp_path))
    assert source.cpus() == [3]
    assert source.msr(3, 0x1401) == 0x3FFFFFE000C00


def test_the_command_reads_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = _write(by_hand(BY_NAME["problem-03-module-not-loaded"].build(), "rdmsr", "syslog"), tmp_path)
    assert main(["host", "check", "--root", str(root), "--json"]) == 1
    assert '"firmware.seamrr_lock"' in capsys.readouterr().out

"""Trees that no capture made are read as well: each host of the catalogue, with registers and log in every form."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hand_made import LOGS, REGISTERS, by_hand
from host_trees import CASES, Case, Tree
from tdxstack.cli.main import main
from tdxstack.platform.linux_host_files import HostReadError
from tdxstack.platform.linux_open_host import open_host
from tdxstack.preflight import diagnosis, report, tree
from tdxstack.preflight.capture import collect
from tdxstack.preflight.host import Host
from tdxstack.preflight.log_sources import scan_host

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
    shift = [*REGISTERS].index(registers)
    for log in ([*LOGS] * 2)[shift % len(LOGS) :][:3]:
        outcomes, code = _outcomes(_write(by_hand(BY_NAME[name].build(), registers, log), tmp_path / log))
        assert [one for one, outcome in outcomes.items() if outcome == "fail"] == []
        assert code == 0


@pytest.mark.parametrize("case", [case for case in CASES if case.exit], ids=lambda case: case.name)
def test_a_problem_by_hand(case: Case, tmp_path: Path) -> None:
    forms = list(zip(REGISTERS, [*LOGS] * 2, strict=False))
    first = CASES.index(case) % len(forms)
    for registers, log in (forms * 2)[first : first + 4]:  # all forms over all cases, four each
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


def test_a_tree_with_little_more_than_the_kernels_files(tmp_path: Path) -> None:
    for name in ("good-upstream", "good-1.5"):
        kernel = ("proc/", "sys/", "dmesg", "msr")
        made = by_hand(BY_NAME[name].build(), "rdmsr", "text")
        root = _write({path: data for path, data in made.items() if path.startswith(kernel)}, tmp_path / name)
        outcomes, code = _outcomes(root)
        assert [one for one, outcome in outcomes.items() if outcome == "fail"] == []
        assert code == 0


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


GARBAGE = (
    b"",
    b"\xff\xfe\0" * 40,
    b"{",
    b"[]",
    b'{"msr": {"0x982": {"0": [], "x": {}}}, "0x87": null}',
    b'[{"msr": [], "cpu": "?", "value": {}}, 7]',
    b"0x982[99:5] = 3\ncpu9999 0x982 " + b"f" * 4000,
    b"[" * 20000,
    b"\x1f\x8b broken",
)
PLACES = (
    "msr.json", "msr.txt", "msr/0x982", "msr/0/0x982", "dev/cpu/0/msr", "dev/cpu/0/msr/0x87", "dmesg",
    "var/log/dmesg", "var/log/syslog", "proc/version", "domcapabilities.xml", "etc/libvirt/qemu/td.xml", "qgs.log",
    "journal.txt",
)  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_garbage_by_hand_ends_in_outcomes(place: str, tmp_path: Path) -> None:
    made = by_hand(BY_NAME["good-upstream"].build(), "none", "text")
    root = _write(made, tmp_path)
    for garbage in GARBAGE:
        _write({place: garbage}, root)
        outcomes, _ = _outcomes(root)
        assert set(outcomes.values()) <= {"pass", "fail", "warn", "skip"}
        assert collect(open_host(root))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(place=st.sampled_from(PLACES[:6]), content=st.binary(max_size=300), text=st.text(max_size=200))
def test_any_content_of_registers(
    place: str, content: bytes, text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for data in (content, text.encode(errors="replace")):
        root = _write({place: data}, tmp_path_factory.mktemp("tree"))
        source = open_host(root)
        for cpu in source.cpus():
            with suppress(HostReadError):
                assert 0 <= source.msr(cpu, 0x982) < 1 << 64


def _journal_text(lines: list[str]) -> str:
    return "".join(f"Mar 01 10:00:00 srv7.lan kernel: {line}\n" for line in lines)


def _journal_json(lines: list[str]) -> str:
    return "".join(json.dumps({"_TRANSPORT": "kernel", "MESSAGE": line, "PRIORITY": "6"}) + "\n" for line in lines)


def _dmesg_json(lines: list[str]) -> str:
    return json.dumps({"dmesg": [{"pri": 6, "time": 1.5, "msg": line} for line in lines]}, indent=3)


@pytest.mark.parametrize(
    ("name", "form"),
    [("journal.txt", _journal_text), ("journalctl.json", _journal_json), ("dmesg.json", _dmesg_json)],
    ids=["journal", "journal as JSON", "dmesg as JSON"],
)
@pytest.mark.parametrize("name_of_host", ["good-upstream", "problem-03-module-not-loaded"])
def test_the_kernels_lines_in_the_journal_and_in_json(
    name_of_host: str, name: str, form: Callable[[list[str]], str], tmp_path: Path
) -> None:
    made = {path: content for path, content in BY_NAME[name_of_host].build().items() if path != "expected.json"}
    lines = [line.split("] ", 1)[1] for line in made.pop(".tdxstack/dmesg").decode().splitlines()]
    made[name] = form(lines).encode()
    _write(made, tmp_path)
    results = list(report.everything(tree.check_host(Host(open_host(tmp_path)))))
    found = {one.check.id: one.outcome.value for one in results if one.outcome.value in ("fail", "warn")}
    assert found == BY_NAME[name_of_host].expected
    assert sum(problem.count for problem in diagnosis.problems(list(scan_host(open_host(tmp_path))))) == (
        0 if name_of_host.startswith("good") else 1
    )


def test_a_tree_without_cpuinfo_is_looked_at_all_the_same(tmp_path: Path) -> None:
    """Somebody forgot it: what else is there speaks for the processor; it is not held to be no TDX host."""
    (tmp_path / "dmesg").write_text(
        "[    1.4] virt/tdx: BIOS enabled: private KeyID range [64, 127)\n[    6.4] virt/tdx: module not loaded\n"
    )
    results = tree.check_host(Host(open_host(tmp_path)))
    outcomes = {one.check.id: one.outcome.value for one in report.everything(results)}
    assert (outcomes["cpu.vendor"], outcomes["module.loaded"]) == ("warn", "fail")
    assert report.exit_code(results, tree.HOST_ROOTS) == 1

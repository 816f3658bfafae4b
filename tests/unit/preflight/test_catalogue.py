"""The catalogue of hosts: a good host of each world, and one for each common problem."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from host_trees import CASES, HOSTS, Case
from tdxstack.cli.main import main
from tdxstack.errors import ExitCode
from tdxstack.platform.linux_open_host import open_host
from tdxstack.preflight import report, tree
from tdxstack.preflight.host import Host


def _files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_committed_tree_is_the_generators(case: Case) -> None:
    assert _files(HOSTS / case.name) == case.build(), "run: python tests/host_trees.py"


def test_no_tree_is_left_over() -> None:
    assert {path.name for path in HOSTS.iterdir()} == {case.name for case in CASES}


def test_each_of_the_fifteen_problems_is_there() -> None:
    assert [case.name[8:10] for case in CASES if case.name.startswith("problem-")] == [
        f"{n:02}" for n in range(1, 16)
    ]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_named_checks_do_not_pass_and_no_others(case: Case) -> None:
    results = tree.check_host(Host(open_host(HOSTS / case.name)))
    found = {
        one.check.id: one.outcome.value for one in report.everything(results) if one.outcome.value in ("fail", "warn")
    }
    assert found == case.expected
    assert report.exit_code(results, tree.HOST_ROOTS) == case.exit


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name.startswith("problem-")], ids=lambda case: case.name
)
def test_each_problem_fails_a_check_through_the_command(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["host", "check", "--root", str(HOSTS / case.name), "--json"]) == ExitCode.FAILED
    document = json.loads(capsys.readouterr().out)
    assert "fail" in case.expected.values()
    assert document["ok"] is False


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_does_not_pass_has_a_fix(case: Case) -> None:
    for one in report.everything(tree.check_host(Host(open_host(HOSTS / case.name)))):
        assert bool(one.fix) == (one.outcome.value in ("fail", "warn")), one.check.id
        assert one.finding.evidence, one.check.id


def test_every_check_is_seen_to_fail_or_has_a_reason_not_to() -> None:
    ids = {one.check.id for one in report.everything(tree.check_host(Host(open_host(HOSTS / "good-upstream"))))}
    seen = {name for case in CASES for name in case.expected}
    assert seen <= ids
    assert len(ids) == len(list(report.everything(tree.check_host(Host(open_host(HOSTS / "good-upstream"))))))


def _keys(check: dict[str, Any]) -> None:
    assert list(check) == ["id", "title", "outcome", "evidence", "expected", "fix", "children"]
    assert check["outcome"] in ("pass", "fail", "warn", "skip")
    for child in check["children"]:
        _keys(child)


@pytest.mark.parametrize(
    ("name", "code"), [("good-upstream", 0), ("problem-01-bios-half-configured", 1), ("not-a-host-amd", 4)]
)
def test_the_document_keeps_its_contract(name: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["host", "check", "--root", str(HOSTS / name), "--json"]) == code
    document = json.loads(capsys.readouterr().out)
    assert list(document) == ["schema", "ok", "checks"]
    assert document["schema"] == "tdxstack/host-check/v1"
    assert document["ok"] is (code == 0)
    for check in document["checks"]:
        _keys(check)


def test_a_child_of_a_failed_check_is_skipped_with_that_reason(capsys: pytest.CaptureFixture[str]) -> None:
    main(["host", "check", "--root", str(HOSTS / "problem-01-bios-half-configured"), "--json"])
    checks = json.loads(capsys.readouterr().out)["checks"]
    silicon = checks[0]["children"][0]["children"][0]
    tdx = next(child for child in silicon["children"] if child["id"] == "firmware.tdx")
    assert {(child["outcome"], child["evidence"]) for child in tdx["children"]} == {("skip", "firmware.tdx failed")}


def test_not_a_tdx_host_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["host", "check", "--root", str(HOSTS / "not-a-host-virtual")]) == ExitCode.UNSUPPORTED
    said = capsys.readouterr().err
    assert said.startswith("not a TDX host:")
    assert "virtual machine" in said


def test_a_bios_fix_is_in_the_vendors_words(capsys: pytest.CaptureFixture[str]) -> None:
    main(["host", "check", "--root", str(HOSTS / "problem-03-module-not-loaded")])
    assert "System BIOS Settings > System Security > TDX Secure Arbitration Mode" in capsys.readouterr().out


def test_no_such_tree(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["host", "check", "--root", "/no/such/tree"]) == ExitCode.FAILED


def test_components(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["host", "components", "--root", str(HOSTS / "good-1.5"), "--json"]) == 0
    listed = {one["name"]: one["installed"] for one in json.loads(capsys.readouterr().out)["components"]}
    assert len(listed) == 16
    assert listed["Intel TDX Module"] == "1.5 build 698"
    assert listed["Intel TDX Libvirt"] == "intel-mvp-tdx-libvirt 8.6.0-mvp17v3.6"
    assert listed["Migration TD"] is None

"""Which tests a run takes, what it makes of their phases, and how it ends."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tdxstack.cli.commands.test import _exit_code
from tdxstack.cloud.artifacts import Artifact, ArtifactManifest
from tdxstack.errors import ExitCode, SystemFault, UsageError
from tdxstack.tdtests.environment import RECIPES, REQUIREMENTS, Environment
from tdxstack.tdtests.results import CaseResult, Report
from tdxstack.tdtests.runner import CASES, RunOptions, RunOutcome, Selection, module_names, run_tests


def _phase(test: str, phase: str, outcome: str = "passed", reason: str = "") -> CaseResult:
    return CaseResult("test_report", test, "report", (), phase, outcome, 1.0, reason, {})


def _run(report: Report, test: str, setup: str = "passed", call: str | None = "passed", end: str = "passed") -> None:
    report.add(_phase(test, "setup", setup, "" if setup == "passed" else f"{setup} in setup"))
    if call is not None:
        report.add(_phase(test, "call", call, "" if call == "passed" else f"{call} in call"))
    report.add(_phase(test, "teardown", end, "" if end == "passed" else f"{end} in teardown"))


def _ended(report: Report) -> ExitCode:
    return _exit_code(RunOutcome(0, report, (), 1.0))


def test_phases_become_one_result() -> None:
    told: list[str] = []
    report = Report(told.append)
    _run(report, "good")
    _run(report, "bad", call="failed")
    _run(report, "not_here", setup="skipped", call=None)
    _run(report, "no_machine", setup="failed", call=None)
    _run(report, "untidy", end="failed")
    assert report.summary() == {"passed": 1, "failed": 1, "error": 2, "skipped": 1}
    found = {one["test"]: one for one in report.to_mapping()["tests"]}
    assert found["good"]["seconds"] == 3.0
    assert found["bad"]["reason"] == "failed in call"
    assert found["not_here"]["reason"] == "skipped in setup"
    assert (found["untidy"]["outcome"], found["untidy"]["reason"]) == ("error", "failed in teardown")
    assert len(told) == 5
    assert told[2] == "skipped  test_report::not_here (2.0 s): skipped in setup"
    assert _ended(report) is ExitCode.FAILED


def test_how_a_run_ends() -> None:
    nothing, good = Report(), Report()
    _run(nothing, "not_here", setup="skipped", call=None)
    assert _ended(nothing) is ExitCode.UNSUPPORTED, "nothing ran: nothing was shown"
    _run(good, "good")
    _run(good, "not_here", setup="skipped", call=None)
    assert _ended(good) is ExitCode.DONE


@pytest.mark.parametrize("text", ["test_report", "report", "test_report.py", "tests/test_report.py"])
def test_a_module(text: str) -> None:
    assert Selection((text,)).arguments() == [str(CASES / "test_report.py")]
    assert Selection((f"{text}::a[b]",)).arguments() == [f"{CASES / 'test_report.py'}::a[b]"]


def test_selections() -> None:
    assert Selection().arguments() == [str(CASES)]
    with pytest.raises(UsageError, match="no test module 'nothing'") as caught:
        Selection(("nothing",)).arguments()
    assert "test_report" in (caught.value.hint or "")


def test_every_case_states_a_category_and_known_requirements() -> None:
    used = set()
    for name in module_names():
        tree = ast.parse((CASES / f"{name}.py").read_text())
        calls = [
            node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        ]
        marks = [call for call in calls if isinstance(call.func, ast.Attribute)]
        names = {call.func.attr for call in marks if isinstance(call.func, ast.Attribute)}
        assert "category" in names, name
        for call in marks:
            if isinstance(call.func, ast.Attribute) and call.func.attr == "requires":
                used |= {str(word.value) for word in call.args if isinstance(word, ast.Constant)}
    assert used == set(REQUIREMENTS), "a requirement that no test states"


def test_a_wrong_artifact_is_told_before_anything_runs(tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(b"another")
    entry = Artifact("latest-guest-image-debian", f"file://{disk}", "0" * 64)
    environment = Environment(artifacts=ArtifactManifest({entry.name: entry, "latest-guest-kernel-debian": entry}))
    with pytest.raises(SystemFault, match=f"{disk} has sha256"):
        run_tests(RunOptions(Selection(("test_report",)), environment), print)


def test_requirements_of_the_software_platform() -> None:
    environment = Environment()
    reason = environment.missing("tdx-hardware")
    assert environment.hardware or (reason is not None and "needs TDX hardware" in reason)
    assert (environment.missing("outside") or "").startswith("needs an URL")
    assert Environment(outside="http://x/").missing("outside") is None
    assert set(RECIPES) == {"debian", "ubuntu", "rhel"}

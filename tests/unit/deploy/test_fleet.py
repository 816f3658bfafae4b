from __future__ import annotations

from pathlib import Path

import pytest

from tdxstack.cli.main import main
from tdxstack.deploy import fleet
from tdxstack.deploy.fleet import Options, Outcome
from tdxstack.deploy.inventory import parse
from tdxstack.errors import ExitCode
from tdxstack.system.process import Completed

(NODE,) = parse("tdx@10.0.0.2:2222 key=/k")


def test_ssh_asks_for_nothing(tmp_path: Path) -> None:
    argv = fleet.ssh_argv(NODE, Options(ssh_config=tmp_path / "config"))
    assert argv[:3] == ["ssh", "-o", "BatchMode=yes"]
    assert argv[-2:] == ["--", "tdx@10.0.0.2"]
    assert "2222" in argv and "/k" in argv and str(tmp_path / "config") in argv


@pytest.mark.parametrize(
    ("code", "out", "err", "outcome", "words"),
    [
        (0, "True\nready\n", "", Outcome.UNCHANGED, ""),
        (255, "", "Permission denied (publickey).", Outcome.UNREACHABLE, "ssh-copy-id"),
        (0, "False\nready\n", "", Outcome.FAILED, "older than 3.11"),
        (1, "True\n", "sudo: a password is required", Outcome.FAILED, "password"),
        (127, "", "sh: python3: not found", Outcome.FAILED, "not found"),
    ],
)
def test_reaching(
    monkeypatch: pytest.MonkeyPatch, code: int, out: str, err: str, outcome: Outcome, words: str
) -> None:
    monkeypatch.setattr(
        "tdxstack.system.process.run", lambda argv, **_: Completed(tuple(argv), code, out.encode(), err.encode())
    )
    (result,) = fleet.reach([NODE], Options())
    assert result.outcome is outcome
    assert words in result.reason


def test_events_become_results() -> None:
    said: list[str] = []
    watch = fleet._Watch(said.append)
    for kind, task, answer in (
        ("runner_on_start", "a", {}),
        ("runner_on_ok", "a", {"changed": True}),
        ("runner_on_failed", "install", {"stderr": "disk\nfull"}),
        ("runner_on_ok", "late", {"changed": True}),
    ):
        watch({"event": kind, "event_data": {"host": "n", "task": task, "res": answer}})
    assert watch.results["n"].outcome is Outcome.FAILED
    assert watch.results["n"].reason == "install: disk full"
    assert said[0] == "n: a: changed"


def test_init_and_an_inventory_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "hosts"
    assert main(["deploy", "check", "-i", str(path)]) == 1
    assert main(["deploy", "init", "-i", str(path)]) == 0
    assert main(["deploy", "init", "-i", str(path)]) == 1
    assert main(["deploy", "apply", "-i", str(path), "--yes"]) == ExitCode.USAGE
    path.write_text("tdx@10.0.0.2\n")
    assert main(["deploy", "apply", "-i", str(path)]) == ExitCode.USAGE
    assert "--dry-run" in capsys.readouterr().err
    assert main(["deploy", "check", "-i", str(path), "--limit", "other"]) == ExitCode.USAGE

from __future__ import annotations

import ast
import hashlib
import json
import os
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

import tdxstack
from tdxstack.cli.main import main
from tdxstack.errors import PlatformMissing
from tdxstack.platform.linux_guest_agent import Agent
from tdxstack.platform.software.guest.ccel import cc_log
from tdxstack.vm import control
from tdxstack.wire.tcg import EventLog, SpecIdEvent
from tdxstack.wire.tdreport import TdInfo, TdReport, TeeTcbInfo

REPORT = TdReport(
    report_data=b"\xaa" * 64, tee_tcb_info=TeeTcbInfo(bytes(16), bytes(48)), td_info=TdInfo(0, 3, b"\xbb" * 48)
).to_bytes()
LOG = cc_log(EventLog(SpecIdEvent(index=0), ()).to_bytes(), b"")


class Answers:
    """Stands for the guest; keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.checks = [{"name": "ccel", "ok": True, "detail": "28 events", "hint": None}]

    def call(self, method: str, params: Any) -> dict[str, Any]:
        self.asked.append((method, dict(params)))
        known: dict[str, dict[str, Any]] = {
            "report": {"report": b64encode(REPORT).decode()},
            "quote": {"quote": b64encode(b"quote").decode(), "via": "configfs"},
            "eventlog": {"table": b64encode(b"table").decode(), "data": b64encode(LOG).decode()},
            "rtmr.read": {"mrtd": "aa" * 48, "rtmr": ["00" * 48] * 4, "source": "sysfs"},
            "rtmr.extend": {"index": 3, "value": "cc" * 48},
            "check": {"checks": self.checks},
        }
        return known[method]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    answers = Answers()
    monkeypatch.setattr(Agent, "call", lambda self, method, params: answers.call(method, params))
    return answers


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    status = main(["guest", *argv])
    return status, capsys.readouterr().out


def test_report(capsys: pytest.CaptureFixture[str], answers: Answers, tmp_path: Path) -> None:
    status, text = run(capsys, "report", "--nonce", "0102")
    assert status == 0
    assert "mrtd        " + "bb" * 48 in text
    assert answers.asked == [("report", {"report_data": "0102" + "00" * 62})]
    out = tmp_path / "report"
    assert run(capsys, "report", "--out", str(out)) == (0, "")
    assert out.read_bytes() == REPORT
    document = json.loads(run(capsys, "report", "--report-data", "aa" * 64, "--json")[1])
    assert document == {"schema": "tdxstack/guest-report/v1", "report_data": "aa" * 64, "report": REPORT.hex()}


def test_without_report_data_each_call_takes_fresh_bytes(
    capsys: pytest.CaptureFixture[str], answers: Answers
) -> None:
    for _ in range(2):
        assert run(capsys, "quote")[0] == 0
    first, second = (params["report_data"] for _, params in answers.asked)
    assert first != second
    assert len(first) == 128


def test_quote(capfdbinary: pytest.CaptureFixture[bytes], answers: Answers) -> None:
    assert main(["guest", "quote", "--via", "vsock", "--nonce", "01", "--out", "-"]) == 0
    assert capfdbinary.readouterr().out == b"quote"
    assert answers.asked[0][1]["via"] == "vsock"


def test_eventlog(capsys: pytest.CaptureFixture[str], answers: Answers, tmp_path: Path) -> None:
    table, data = tmp_path / "table", tmp_path / "data"
    assert run(capsys, "eventlog", "--table", str(table), "--out", str(data))[0] == 0
    assert (table.read_bytes(), data.read_bytes()) == (b"table", LOG)
    assert json.loads(run(capsys, "eventlog", "--json")[1])["schema"] == "tdxstack/guest-eventlog/v1"


def test_rtmr(capsys: pytest.CaptureFixture[str], answers: Answers, tmp_path: Path) -> None:
    assert "rtmr3  " + "00" * 48 in run(capsys, "rtmr")[1]
    event = tmp_path / "event"
    event.write_bytes(b"event")
    status, text = run(capsys, "rtmr", "--extend", "3", "--event", str(event))
    assert (status, text) == (0, "rtmr3  " + "cc" * 48 + "\n")
    digest = hashlib.sha384(b"event").hexdigest()
    assert answers.asked[-1] == ("rtmr.extend", {"index": 3, "digest": digest})
    assert run(capsys, "rtmr", "--extend", "3", "--digest", digest)[0] == 0


@pytest.mark.parametrize(
    "argv",
    [
        ["report", "--nonce", "xyz"],
        ["report", "--nonce", "00" * 65],
        ["report", "--nonce", ""],
        ["report", "--report-data", "00"],
        ["rtmr", "--digest", "00" * 48],
        ["rtmr", "--extend", "2"],
        ["rtmr", "--extend", "2", "--digest", "00"],
        ["rtmr", "--extend", "2", "--event", "/nonexistent"],
        ["rtmr", "--extend", "4", "--digest", "00" * 48],
        ["quote", "--via", "post"],
    ],
)
def test_usage(argv: list[str], capsys: pytest.CaptureFixture[str], answers: Answers) -> None:
    assert run(capsys, *argv)[0] == 2
    assert answers.asked == []


def test_check_fails_if_one_interface_fails(capsys: pytest.CaptureFixture[str], answers: Answers) -> None:
    assert run(capsys, "check") == (0, "ok      ccel          28 events\n")
    answers.checks.append({"name": "report", "ok": False, "detail": "none", "hint": "modprobe tsm"})
    status, text = run(capsys, "check")
    assert status == 1
    assert "FAILED  report" in text
    assert "modprobe tsm" in text


def test_with_td_the_supervisor_is_asked(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Client:
        def __init__(self, name: str) -> None:
            asked.append(name)

        def __enter__(self) -> Client:
            return self

        def __exit__(self, *_: object) -> None:
            return None

        def call(self, method: str, params: Any, *, timeout: float) -> Any:
            asked.append((method, params["method"], params["params"], timeout > params["timeout"]))
            return {"quote": b64encode(b"quote").decode(), "via": "configfs"}

    monkeypatch.setattr(control, "ControlClient", Client)
    assert run(capsys, "quote", "--td", "demo", "--nonce", "01")[0] == 0
    assert asked == ["demo", ("guest", "quote", {"report_data": "01" + "00" * 63, "via": "auto"}, True)]


def test_a_machine_that_is_no_td(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Agent, method: str, params: Any) -> dict[str, Any]:
        raise PlatformMissing("TDREPORT: /dev/tdx_guest: No such file or directory", hint="modprobe tdx_guest")

    monkeypatch.setattr(Agent, "call", refuse)
    assert run(capsys, "report")[0] == 4


def test_serve_needs_root(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert run(capsys, "serve")[0] == 2


def test_what_runs_in_a_guest_imports_the_standard_library_alone() -> None:
    """Also inside functions: a guest has python3 and nothing else."""
    import sys

    root = Path(tdxstack.__file__).parent
    patterns = ("platform/linux_guest*.py", "platform/software/guest/*.py", "cli/commands/guest.py", "wire/*.py")
    files = [path for pattern in (*patterns, "platform/verifier_client.py") for path in root.glob(pattern)]
    platform = ("linux_guest", "software.guest", "verifier_client")
    own = ("tdxstack.wire", "tdxstack.errors", *(f"tdxstack.platform.{name}" for name in platform))
    assert len(files) > 20
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                allowed = name.split(".")[0] in sys.stdlib_module_names or name.startswith((*own, "tdxstack.cli"))
                assert allowed or name in ("tdxstack", "tdxstack.platform"), f"{path.name} imports {name}"

"""What every verb of ``td`` that changes something has: a dry run that leaves nothing, and a document."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest

from tdxstack.cli.main import build_parser, main
from tdxstack.system import paths
from tdxstack.vm import events, lifecycle
from tdxstack.vm import record as records
from tdxstack.vm.record import Run
from tdxstack.vm.state import State

Capture = pytest.CaptureFixture[str]
#: Verbs that only tell, and those that hand the terminal to a program.
READING = {"show", "list", "capacity", "wait", "schema", "check-encryption", "logs", "events"}
TERMINAL = {"console", "ssh", "exec"}


@pytest.fixture
def kernel(tmp_path: Path) -> str:
    path = tmp_path / "vmlinuz"
    path.write_bytes(b"kernel")
    return str(path)


def _verbs() -> dict[str, argparse.ArgumentParser]:
    parser: argparse.ArgumentParser = build_parser("td")
    for noun in ("td",):
        (group,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
        parser = group.choices[noun]
    (group,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    return dict(group.choices)


def test_every_changing_verb_has_a_dry_run_and_a_document() -> None:
    for name, parser in _verbs().items():
        words = {word for action in parser._actions for word in action.option_strings}
        assert ("--dry-run" in words) is (name not in READING | TERMINAL), name
        assert "--json" in words or name in TERMINAL | {"schema", "logs"}, name


def test_changes_told_as_documents(kernel: str, capsys: Capture) -> None:
    def told(*words: str) -> dict[str, object]:
        capsys.readouterr()
        assert main(["td", *words, "--json"]) == 0, capsys.readouterr().err
        found: dict[str, object] = json.loads(capsys.readouterr().out)
        return found

    assert told("create", "a", "--type=efi", "--kernel", kernel)["state"] == "defined"
    changed = told("set", "a", "--memory", "1G")
    assert (changed["schema"], changed["spec"]["memory"]) == ("tdxstack/td/v1", "1G")  # type: ignore[index]
    assert told("set", "a", "--memory", "3G", "--dry-run")["memory"] == "3G"
    assert told("clone", "a", "b")["name"] == "b"
    plan = told("delete", "a", "b", "a", "--dry-run")
    assert plan["schema"] == "tdxstack/td-plan/v1"
    assert [(one["td"], one["state"]) for one in plan["plan"]] == [("a", "defined"), ("b", "defined")]  # type: ignore[attr-defined]
    assert told("suspend", "a", "--dry-run")["plan"] == [{"td": "a", "state": "defined", "would": "suspend a"}]
    assert told("snapshot", "list", "a")["snapshots"] == []
    assert told("delete", "a", "b", "a", "--yes") == {"schema": "tdxstack/td-deleted/v1", "deleted": ["a", "b"]}


@pytest.mark.parametrize("words", [
    ["td", "create", "x", "--type=efi", "--kernel", "{kernel}"],
    ["td", "create", "x", "--kernel", "{kernel}", "--json"],
    ["td", "autostart"],
    ["test", "stack"],
    ["start-qemu", "--dialect=tdx15", "-i", "{kernel}", "-k", "{kernel}"],
    ["start-qemu", "-t", "efi", "-i", "{kernel}", "-k", "{kernel}"],
    ["start-qemu", "-i", "{kernel}", "-k", "{kernel}"],
])  # fmt: skip
@pytest.mark.processes
def test_a_dry_run_makes_no_directory(
    words: list[str], kernel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "RUNTIME", "CACHE"):
        monkeypatch.setenv(f"TDXSTACK_{name}", str(tmp_path / name.lower()))
    assert main([word.format(kernel=kernel) for word in [*words, "--dry-run"]]) == 0
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["vmlinuz"]
    assert not paths.looking(), "the next command works"
    assert lifecycle.list_all() == []


@pytest.mark.parametrize(("line", "says"), [
    ('dialect = "downstream"', "downstream"),
    ('attributes = "0x1ffffffffffffffff"', "64 bits"),
    ('kernel = "/nonexistent/vmlinuz"', "/nonexistent/vmlinuz"),
    ('mrowner = "00"', "mrowner"),
    ("vcpus = true", "vcpus"),
    ("memory = 2024-01-01", "memory"),
    ("[memory]", "memory"),
    ("nothing = 1", "nothing"),
])  # fmt: skip
@pytest.mark.parametrize("dry", [["--dry-run"], []])
def test_a_wrong_setting_is_told_at_once(
    line: str, says: str, dry: list[str], kernel: str, tmp_path: Path, capsys: Capture
) -> None:
    given = "" if line.startswith("kernel") else f'kernel = "{kernel}"\n'
    (tmp_path / "td.toml").write_text(f'name = "x"\n{given}{line}\n')
    assert main(["td", "create", "--spec", str(tmp_path / "td.toml"), "--json", *dry]) == 2
    shown = capsys.readouterr()
    assert says in shown.err and "next: " in shown.err
    assert json.loads(shown.out)["schema"] == "tdxstack/error/v1"
    assert lifecycle.list_all() == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["set", "a", "--unset", "memry"], "--unset memry: there is no such setting"),
        (["set", "a", "--unset", "memry", "--dry-run"], "--unset memry: there is no such setting"),
        (["set", "a", "--unset", "ssh-port", "--ssh-port", "1"], "ssh_port is both set and unset"),
        (["set", "a"], "which settings?"),
        (["logs", "a", "--log", "firmware"], "its firmware writes to the serial console"),
    ],
)
def test_a_wrong_word_changes_nothing(words: list[str], says: str, kernel: str, capsys: Capture) -> None:
    assert main(["td", "create", "a", "--type=efi", "--kernel", kernel]) == 0
    before = lifecycle.status("a")
    assert main(["td", *words]) == 2
    shown = capsys.readouterr()
    assert says in shown.err and "next: " in shown.err
    assert lifecycle.status("a") == before


@pytest.mark.parametrize("verb", ["stop", "suspend", "resume", "save"])
def test_a_td_at_rest_is_told_by_the_verb(verb: str, kernel: str, capsys: Capture) -> None:
    assert main(["td", "create", "a", "--type=efi", "--kernel", kernel]) == 0
    assert main(["td", verb, "a"]) == 1
    assert f"TD a: cannot {verb} while defined" in capsys.readouterr().err


def test_what_is_told_of_a_td_that_rests(kernel: str, capsys: Capture) -> None:
    """Ports and processes of its last run are no way to reach it."""
    main(["td", "create", "a", "--type=efi", "--kernel", kernel])
    record = lifecycle.status("a")
    run = Run(mac="52:54:00:00:00:01", ssh_port=10022, qemu_pid=77)
    records.save(replace(record, state=State.STOPPED, run=run))
    capsys.readouterr()
    assert main(["td", "show", "a"]) == 0
    told = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    assert told["MAC"].strip() == "52:54:00:00:00:01"
    assert not {"ssh", "QEMU"} & set(told)


def test_events_as_text(kernel: str, capsys: Capture) -> None:
    main(["td", "create", "a", "--type=efi", "--kernel", kernel])
    events.note("a", "SHUTDOWN", {"data": {"guest": True, "reason": "guest-shutdown"}})
    events.note("a", "state", {"state": "stopped", "reason": None})
    capsys.readouterr()
    assert main(["td", "events", "a"]) == 0
    shutdown, state = capsys.readouterr().out.splitlines()
    assert shutdown.split()[1:] == ["SHUTDOWN", "guest=true", "reason=guest-shutdown"]
    assert state.split()[1:] == ["state", "state=stopped"]


def test_events_are_followed_until_the_td_is_gone(
    kernel: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["td", "create", "a", "--type=efi", "--kernel", kernel])
    happening = [lambda: events.note("a", "STOP", {}), lambda: lifecycle.delete("a")]
    monkeypatch.setattr("time.sleep", lambda _seconds: happening.pop(0)())
    capsys.readouterr()
    assert main(["td", "events", "a", "--follow"]) == 0
    assert capsys.readouterr().out.split()[1:] == ["STOP"]


@pytest.mark.parametrize("seconds", ["nan", "-1", "inf", "soon"])
@pytest.mark.parametrize("verb", ["start", "stop", "reboot", "wait", "exec"])
def test_a_time_that_is_none(verb: str, seconds: str, capsys: Capture) -> None:
    """``nan`` is never over."""
    assert main(["td", verb, f"--timeout={seconds}", "a"]) == 2
    assert "--timeout" in capsys.readouterr().err

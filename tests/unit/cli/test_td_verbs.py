"""What every verb of ``td`` that changes something has: a dry run that leaves nothing, and a document."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from tdxstack.cli.main import build_parser, main
from tdxstack.system import paths
from tdxstack.vm import lifecycle

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

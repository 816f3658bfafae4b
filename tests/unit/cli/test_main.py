from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tdxstack.cli.main import NOUNS, build_parser, main


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("tdxctl ")


def test_no_noun_is_a_usage_error() -> None:
    assert main([]) == 2


def _parsers(parser: argparse.ArgumentParser, path: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    children = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not children:
        yield path, parser
    for action in children:
        for name, child in action.choices.items():
            yield from _parsers(child, f"{path} {name}")


@pytest.mark.parametrize(
    ("path", "parser"), list(_parsers(build_parser(), "tdxctl")), ids=lambda value: str(value)[:60]
)
def test_every_verb_can_run_and_explains_its_options(path: str, parser: argparse.ArgumentParser) -> None:
    assert callable(parser.get_default("run")), path
    undocumented = [action.dest for action in parser._actions if not action.help]
    assert not undocumented, f"{path}: options without help: {undocumented}"
    parser.format_help()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "tcsh"])
def test_completion_knows_every_noun(shell: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capfd.readouterr().out
    assert all(noun in script for noun in NOUNS)


def _run(command: list[str], home: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "HOME": str(home), "TDXSTACK_HOME": str(home), "PATH": path}
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=home, env=environment)


def _two_tds(home: Path) -> None:
    for name in ("web", "web2"):
        (home / "tds" / name).mkdir(parents=True)
        (home / "tds" / name / "td.json").write_text("{}")


@pytest.mark.processes
@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("tdxctl td start we", "web web2"),
        ("tdxctl td delete web2 web", "web web2"),
        ("tdxctl td start x", ""),
        ("tdxctl guest quote --td we", "web web2"),
    ],
)
def test_bash_completes_names_of_tds(
    line: str, wanted: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "completion.bash"
    script.write_text(capfd.readouterr().out)
    _two_tds(tmp_path)
    ask = (
        f"source {script}; COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); "
        '_shtab_tdxctl; echo "${COMPREPLY[@]}"'
    )
    told = _run(["bash", "--norc", "-c", ask], tmp_path)
    assert (told.stdout.strip(), told.stderr) == (wanted, "")


@pytest.mark.processes
@pytest.mark.skipif(shutil.which("zsh") is None, reason="the Z shell is not installed")
def test_zsh_reads_the_script(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "zsh"]) == 0
    script = tmp_path / "_tdxctl"
    script.write_text(capfd.readouterr().out)
    _two_tds(tmp_path)
    names = "_describe() { print -- $names }; compdef() { }; source ./_tdxctl; _tdxctl_td_names"
    told = _run(["zsh", "-f", "-c", f"_arguments() {{ }}; {names}"], tmp_path)
    assert (told.stdout.strip(), told.stderr) == ("web web2", "")


@pytest.mark.processes
@pytest.mark.skipif(shutil.which("fish") is None, reason="the fish shell is not installed")
def test_fish_completes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "fish"]) == 0
    script = tmp_path / "tdxctl.fish"
    script.write_text(capfd.readouterr().out)
    _two_tds(tmp_path)
    for line, wanted, unwanted in (
        ("tdxctl q", {"qgs", "quickstart", "quote"}, "show"),
        ("tdxctl quote ", {"explain", "show", "verify"}, "quote"),
        ("tdxctl quote --json ver", {"verify"}, "explain"),
        ("tdxctl quote verify file --tr", {"--trust-root"}, "--version"),
        ("tdxctl td stop demo --mode ", {"acpi", "agent", "auto", "force"}, "stop"),
        ("tdxctl td snapshot re", {"revert"}, "create"),
        ("tdxctl td start we", {"web", "web2"}, "start"),
        ("tdxctl guest quote --td we", {"web", "web2"}, "quote"),
    ):
        told = _run(["fish", "--no-config", "-c", f"source {script}; complete -C '{line}'"], tmp_path)
        words = {one.split("\t")[0] for one in told.stdout.splitlines()}
        assert told.stderr == ""
        assert wanted <= words
        assert unwanted not in words


@pytest.mark.processes
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_files(closed: str, tmp_path: Path) -> None:
    told = _run(["sh", "-c", f"{sys.executable} -m tdxstack.cli platform list {closed}"], tmp_path)
    assert (told.returncode, told.stderr) == (0, "")


def test_man_page_has_every_noun(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["man"]) == 0
    text = capfd.readouterr().out
    assert all(f".SH {noun.upper()}" in text for noun in NOUNS)


@pytest.mark.processes
def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from tdxstack.cli.main import main; main(['--help']); "
        "heavy = {'rich', 'cryptography', 'asyncio', 'ssl', 'qemu', 'tomllib'} & set(sys.modules); "
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("where", ["load_noun", "run"])
def test_a_module_that_is_not_there_is_an_error_with_a_hint(
    where: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'cryptography'", name="cryptography")

    if where == "load_noun":
        monkeypatch.setattr("tdxstack.cli.main.load_noun", absent)
    else:
        monkeypatch.setattr("tdxstack.cli.commands.completion.run", absent)
    assert main(["completion", "bash"]) == 4
    assert "cryptography is not installed" in capsys.readouterr().err

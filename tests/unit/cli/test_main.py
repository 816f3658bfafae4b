from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator

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


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_every_noun(shell: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capfd.readouterr().out
    assert all(noun in script for noun in NOUNS)


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

"""Each ``tdxctl NOUN VERB --option`` that a hint, a fix, a help text or a page names is one that the program has."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tdxstack.cli.main import build_parser

ROOT = Path(__file__).resolve().parents[3]
PLACES = (
    *(ROOT / "src").rglob("*.py"),
    *(ROOT / "src").rglob("*.toml"),
    *(ROOT / "docs").rglob("*.md"),
    ROOT / "README.md",
)
#: A command ends where the sentence, the quotation or the shell's word does.
NAMED = re.compile(r"(?<![\w./-])tdxctl ([a-z][a-z-]*(?: +[^\s`,:;|&<>()\"'\\{}#]+)*)")
OPTION = re.compile(r"--[a-z][a-z0-9-]*")


def _choices(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _options(parser: argparse.ArgumentParser) -> set[str]:
    return {option for action in parser._actions for option in action.option_strings}


def _named(path: Path) -> Iterator[str]:
    for found in NAMED.finditer(path.read_text()):
        yield found[1]


def _fault(words: list[str], parser: argparse.ArgumentParser) -> str | None:
    """Why a command is none, or None. What does not begin with a noun is prose: tdxctl builds images."""
    if words[0] not in _choices(parser):
        return None
    while (choices := _choices(parser)) and words and re.fullmatch("[a-z][a-z-]*", words[0]):
        name = words.pop(0)
        if name not in choices:
            return f"no {name}"
        parser = choices[name]
    lost = [word for word in words if (found := OPTION.match(word)) and found[0] not in _options(parser)]
    return f"no option {', '.join(lost)}" if lost else None


def test_each_command_that_is_named_is_there() -> None:
    parser = build_parser()
    named = {(path, text) for path in PLACES for text in _named(path)}
    faults = {
        f"{path.relative_to(ROOT)}: tdxctl {text}": fault
        for path, text in named
        if (fault := _fault(text.split(), parser))
    }
    assert faults == {}
    assert len(named) > 500


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("firmware inspect FILE", "no inspect"),
        ("host check --rot DIR", "no option --rot"),
        ("host check --root DIR", None),
        ("builds images", None),
    ],
)
def test_what_is_not_there_is_told(text: str, fault: str | None) -> None:
    assert _fault(text.split(), build_parser()) == fault

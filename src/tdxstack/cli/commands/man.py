"""``tdxctl man``: the manual page in troff, from the same declarations as the help."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from tdxstack import __version__
from tdxstack.cli import output
from tdxstack.errors import ExitCode


def add_parser(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "tdxctl man | man -l -    reads it; install it as /usr/local/share/man/man1/tdxctl.1"
    parser.set_defaults(run=run)


def run(_args: argparse.Namespace) -> ExitCode:
    from tdxstack.cli.main import build_parser

    output.raw("\n".join(page(build_parser())).encode() + b"\n")
    return ExitCode.DONE


def page(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The lines of tdxctl(1), one section per noun."""
    yield f'.TH TDXCTL 1 "" "tdxstack {__version__}" "tdxstack"'
    yield ".SH NAME"
    yield "tdxctl \\- from a bare machine to an attested Intel TDX trust domain"
    yield ".SH SYNOPSIS"
    yield ".B tdxctl"
    yield "NOUN [VERB] [OPTIONS]"
    yield ".SH DESCRIPTION"
    yield _escape(parser.description or "")
    for noun, child in _children(parser):
        yield f".SH {noun.upper()}"
        yield _escape(child.description or "")
        yield from _verbs(noun, child)
    yield ".SH EXIT STATUS"
    yield _escape((parser.epilog or "").replace("exit status: ", ""))


def _verbs(path: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    verbs = list(_children(parser))
    if not verbs:
        yield from _usage(path, parser)
    for verb, child in verbs:
        yield from _verbs(f"{path} {verb}", child)


def _usage(path: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    yield f".SS tdxctl {_escape(path)}"
    if parser.description:
        yield _escape(parser.description)
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        names = ", ".join(action.option_strings) or action.dest
        takes_value = action.nargs != 0 and action.option_strings
        value = f" {action.metavar or action.dest.upper()}" if takes_value else ""
        yield ".TP"
        yield f".B {_escape(names)}{_escape(str(value))}"
        yield _escape((action.help or "") % {"default": action.default, "prog": parser.prog})


def _children(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def _escape(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("-", "\\-")
    return "\n".join("\\&" + line if line.startswith((".", "'")) else line for line in escaped.splitlines())

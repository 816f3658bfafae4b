"""Data on stdout, talk on stderr, one JSON document where ``--json`` is given."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from tdxstack.errors import TdxStackError, UsageError


def help_formatter() -> Any:
    """rich-argparse on a terminal, argparse's own elsewhere (and in a guest, which has no rich)."""
    if colour(sys.stdout):
        try:
            from rich_argparse import RichHelpFormatter
        except ImportError:
            pass
        else:
            return RichHelpFormatter
    return argparse.HelpFormatter


def colour(stream: TextIO) -> bool:
    """Whether to colour ``stream``: a terminal, and NO_COLOR not set."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


_SGR = {"bold": "1", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def coloured(text: str, hue: str) -> str:
    """``text`` for stdout, in a colour where stdout shows colours."""
    return f"\033[{_SGR[hue]}m{text}\033[0m" if colour(sys.stdout) else text


def add_json(parser: argparse.ArgumentParser) -> None:
    """Declare ``--json`` on a reading verb."""
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def add_verb(verbs: Any, name: str, text: str) -> argparse.ArgumentParser:
    """Declare a verb with ``text`` as its help and its description."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=text, description=text, formatter_class=help_formatter()
    )
    return parser


def document(kind: str, body: Mapping[str, Any], *, version: int = 1) -> dict[str, Any]:
    """A document with its schema's name first: ``{"schema": "tdxstack/<kind>/v1", ...}``."""
    return {"schema": f"tdxstack/{kind}/v{version}", **body}


def emit(args: argparse.Namespace, body: Mapping[str, Any], human: Callable[[], str]) -> None:
    """Print ``body`` as JSON if ``--json`` was given, else the text that ``human()`` makes."""
    if getattr(args, "json", False):
        print(json.dumps(body, indent=2, ensure_ascii=False))
    else:
        text = human()
        print(text, end="" if text.endswith("\n") else "\n")


def raw(data: bytes) -> None:
    """Write bytes to stdout."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def raw_talk(data: bytes) -> None:
    """Write bytes to stderr: what a program that was run for the user said there."""
    sys.stderr.buffer.write(data)
    sys.stderr.buffer.flush()


def say(text: str) -> None:
    """Talk: one line on stderr."""
    print(text, file=sys.stderr, flush=True)


def step(text: str) -> None:
    """Progress of long work: one line per step."""
    mark = "\033[36m==>\033[0m" if colour(sys.stderr) else "==>"
    say(f"{mark} {text}")


def confirmed(args: argparse.Namespace, question: str) -> bool:
    """Whether ``--yes`` was given, or the person at the terminal says so.

    Raises:
        UsageError: nobody can be asked.
    """
    if getattr(args, "yes", False):
        return True
    if not sys.stdin.isatty():
        raise UsageError(f"{question} Nobody is there to answer", hint="repeat the command with --yes")
    say(f"{question} [y/N] ")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def failure(error: TdxStackError, *, as_json: bool) -> None:
    """What went wrong and what to do next, on stderr (and as a document on stdout with ``--json``)."""
    say(f"tdxctl: {error.message if hasattr(error, 'message') else error}")
    if error.hint:
        say(f"  next: {error.hint}")
    if as_json:  # last: a stdout that takes nothing must not keep the words back
        facts = {key: value for key, value in vars(error).items() if _plain(value)}
        print(json.dumps(document("error", {"error": type(error).__name__, **facts}), indent=2))


def _plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | bool)

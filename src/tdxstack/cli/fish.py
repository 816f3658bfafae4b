"""Completion for the fish shell, which shtab does not write: one ``complete`` line per noun, verb and option.

Source: fish 3, "Writing your own completions".
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

_HEAD = """\
function __tdxctl_words
    for word in (commandline -opc)[2..-1]
        string match -q -- '-*' $word; or echo $word
    end
end
function __tdxctl_under
    set -l words (__tdxctl_words)
    test (count $words) -ge (count $argv); and test "$words[1..$(count $argv)]" = "$argv"
end
function __tdxctl_at
    test "$(__tdxctl_words | string join ' ')" = "$argv"
end"""

Path = tuple[str, ...]


def script(parser: argparse.ArgumentParser) -> str:
    """The completion script of ``tdxctl``."""
    return "\n".join((_HEAD, *_lines(parser, ())))


def _lines(parser: argparse.ArgumentParser, path: Path) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from _verbs(action, path)
        elif action.option_strings:
            yield _option(action, path)
        elif words := _values(action):
            yield f"complete -c tdxctl -n {_quoted(_when('at', path))} -f -a {_quoted(words)}"


def _verbs(action: argparse._SubParsersAction[argparse.ArgumentParser], path: Path) -> Iterator[str]:
    for shown in action._choices_actions:
        words = f"-f -a {_quoted(shown.dest)} -d {_quoted(shown.help or '')}"
        yield f"complete -c tdxctl -n {_quoted(_when('at', path))} {words}"
    for name, child in action.choices.items():
        yield from _lines(child, (*path, name))


def _option(action: argparse.Action, path: Path) -> str:
    words = [f"complete -c tdxctl -n {_quoted(_when('under' if path else 'at', path))}"]
    for flag in action.option_strings:
        words.append(f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}")
    if action.nargs != 0:
        words.append("-r")
    if values := _values(action):
        words.append(f"-f -a {_quoted(values)}")
    if action.help and action.help is not argparse.SUPPRESS:
        words.append(f"-d {_quoted(action.help % {**vars(action), 'prog': 'tdxctl'})}")
    return " ".join(words)


def _values(action: argparse.Action) -> str:
    """What an argument takes, as fish is to offer it: by shtab's ``complete``, or the choices."""
    by_shell: dict[str, str] = getattr(action, "complete", {})
    return by_shell.get("fish", "") or " ".join(map(str, action.choices or ()))


def _when(test: str, path: Path) -> str:
    return " ".join((f"__tdxctl_{test}", *path))


def _quoted(text: str) -> str:
    """Single quotes of fish, in which a backslash and a quote are escaped by a backslash."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", " ") + "'"

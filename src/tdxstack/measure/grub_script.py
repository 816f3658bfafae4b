"""As much of GRUB's script language as is needed to see what a plain configuration does: words, quotes, variables.

Source: GRUB manual, sections "Quoting", "Variable expansion" and "Shell-like scripting". Conditions, loops,
functions, menu entries and wildcards are not followed: a script with one of them ends there with a fault.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

#: Words that begin a construct which is not followed.
_CONSTRUCTS = frozenset(("if", "for", "while", "until", "function", "menuentry", "submenu", "case", "{", "}", "!"))
_NAME = re.compile(r"\{(\w+|[?@*#]|\d+)\}|(\w+|[?@*#])")
_KNOWN_ELSEWHERE = re.compile(r"feature_|net_|pxe_|[?@*#]|\d")
MAX_SCRIPT = 1 << 18
MAX_SHOWN = 80


class ScriptFault(Exception):
    """The script's course cannot be told; the text says why."""


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a word: literal text, or a variable's name; ``quoted`` ones are not split."""

    text: str
    variable: bool = False
    quoted: bool = False


Word = tuple[Part, ...]


def commands(script: str) -> Iterator[list[Word]]:
    """The simple commands of a script, in order, their words not yet expanded.

    Raises:
        ScriptFault: a construct that is not followed, when it is reached.
    """
    if len(script) > MAX_SCRIPT:
        raise ScriptFault(f"a script of {len(script)} characters")
    reader = _Reader(script)
    words: list[Word] = []
    while (token := reader.next()) is not None:
        if isinstance(token, str):
            if token not in ("\n", ";"):
                raise ScriptFault(f"{token} in grub.cfg is not followed")
            if words:
                yield words
            words = []
            continue
        if not words and len(token) == 1 and not token[0].quoted and token[0].text in _CONSTRUCTS:
            raise ScriptFault(f"{token[0].text} in grub.cfg is not followed")
        words.append(token)
    if words:
        yield words


def expand(words: list[Word], variables: Mapping[str, str]) -> list[str]:
    """Words after expansion of variables; the value of one outside of quotes is split at blanks.

    Raises:
        ScriptFault: a variable whose value is not known, or a wildcard.
    """
    return [text for word in words for text in _expanded(word, variables)]


def _expanded(word: Word, variables: Mapping[str, str]) -> list[str]:
    """The words that one word becomes: none where it is an unset variable, several where a value has blanks."""
    parts: list[list[str]] = [[]]
    some = False
    for part in word:
        if not part.variable:
            if not part.quoted and any(mark in part.text for mark in "*?"):
                raise ScriptFault(f"the wildcard in {part.text[:MAX_SHOWN]} is not followed")
            pieces = [part.text]
        elif part.quoted:
            pieces = [_value(part.text, variables)]
        else:
            pieces = _value(part.text, variables).split()
        if pieces:
            some = True
            parts[-1].append(pieces[0])
            parts += [[piece] for piece in pieces[1:]]
    return ["".join(one) for one in parts] if some else []


def _value(name: str, variables: Mapping[str, str]) -> str:
    if name not in variables and _KNOWN_ELSEWHERE.match(name):
        raise ScriptFault(f"the value of GRUB's variable {name} is not known")
    return variables.get(name, "")


class _Reader:
    """Splits a script into words and the marks between them."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def next(self) -> Word | str | None:
        """The next word, or a mark (newline, ``;``, ``&&``, ``|`` ...), or None at the end."""
        text = self._text
        while self._at < len(text):
            letter = text[self._at]
            if letter in " \t\r":
                self._at += 1
            elif text.startswith("\\\n", self._at):
                self._at += 2
            elif letter == "#":
                end = text.find("\n", self._at)
                self._at = len(text) if end < 0 else end
            elif letter in "\n;&|<>":
                self._at += 1
                return letter
            else:
                return self._word()
        return None

    def _word(self) -> Word:
        parts: list[Part] = []
        text = self._text
        while self._at < len(text) and text[self._at] not in " \t\r\n;&|<>":
            letter = text[self._at]
            if letter == "'":
                parts.append(Part(self._until_quote("'"), quoted=True))
            elif letter == '"':
                parts += self._double_quoted()
            elif letter == "\\":
                taken = text[self._at + 1 : self._at + 2]
                self._at += 2
                if taken != "\n":
                    parts.append(Part(taken, quoted=True))
            elif letter == "$":
                parts.append(self._variable(quoted=False))
            else:
                start = self._at
                while self._at < len(text) and text[self._at] not in " \t\r\n;&|<>'\"\\$":
                    self._at += 1
                parts.append(Part(text[start : self._at]))
        return tuple(parts)

    def _until_quote(self, mark: str) -> str:
        start = self._at + 1
        end = self._text.find(mark, start)
        if end < 0:
            raise ScriptFault("a quote in grub.cfg is not closed")
        self._at = end + 1
        return self._text[start:end]

    def _double_quoted(self) -> list[Part]:
        parts = [Part("", quoted=True)]
        text = self._text
        self._at += 1
        while self._at < len(text):
            letter = text[self._at]
            if letter == '"':
                self._at += 1
                return parts
            if letter == "$":
                parts.append(self._variable(quoted=True))
                continue
            # A backslash in double quotes keeps its meaning before these alone.
            if letter == "\\" and text[self._at + 1 : self._at + 2] in ("$", '"', "\\", "\n"):
                letter = text[self._at + 1].replace("\n", "")
                self._at += 1
            parts.append(Part(letter, quoted=True))
            self._at += 1
        raise ScriptFault("a quote in grub.cfg is not closed")

    def _variable(self, *, quoted: bool) -> Part:
        match = _NAME.match(self._text, self._at + 1)
        if match is None:
            self._at += 1
            return Part("$", quoted=True)
        self._at = match.end()
        return Part(match[1] or match[2], variable=True, quoted=quoted)

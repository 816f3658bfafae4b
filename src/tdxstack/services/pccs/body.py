"""Bodies of requests: JSON that is bounded, has no member twice, and keeps the text of what is signed in it."""

from __future__ import annotations

import json
import re
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

from tdxstack.services.pccs.refusal import Refusal, Status

#: Deeper nesting is refused.
MAX_DEPTH = 32
_SPACE = re.compile(r"[ \t\n\r]*")

Members = dict[str, Any]


class _Duplicate(ValueError):
    """A member that is there twice."""


def _unique(pairs: list[tuple[str, Any]]) -> Members:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Duplicate("a member is there twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
_PLAIN = json.JSONDecoder()


def bad(detail: str) -> Refusal:
    """A refusal of a body."""
    return Refusal(Status.INVALID_REQUEST, detail)


def load(data: bytes) -> tuple[Members, str]:
    """The object and its text. Raises Refusal (400)."""
    try:
        text = data.decode("utf-8")
        value = _STRICT.decode(text)
    except RecursionError:
        raise bad("The body is nested too deeply.") from None
    except ValueError as error:
        raise bad(f"The body is not JSON: {str(error)[:100]}.") from None
    if not isinstance(value, dict):
        raise bad("The body is not a JSON object.")
    _check(value)
    return value, text


def _check(value: Members) -> None:
    """Bound the depth; refuse what a database's text column cannot hold."""
    pending: list[tuple[Any, int]] = [(value, 1)]
    while pending:
        node, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise bad("The body is nested too deeply.")
        if isinstance(node, dict):
            pending.extend((child, depth + 1) for child in node.values())
        elif isinstance(node, list):
            pending.extend((child, depth + 1) for child in node)
        elif isinstance(node, str) and ("\0" in node or not _encodable(node)):
            raise bad("A text holds a NUL or half of a surrogate pair.")


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def object_of(parent: Members, name: str) -> Members:
    """The member, an object. Raises Refusal."""
    value = parent.get(name)
    if not isinstance(value, dict):
        raise bad(f"{name}: not an object.")
    return value


def array_of(parent: Members, name: str, limit: int) -> list[Members]:
    """The member, an array of up to ``limit`` objects. Raises Refusal."""
    value = parent.get(name)
    if not isinstance(value, list) or len(value) > limit or not all(isinstance(item, dict) for item in value):
        raise bad(f"{name}: not an array of up to {limit} objects.")
    return value


def text_of(parent: Members, name: str, pattern: re.Pattern[str] | None = None, default: str | None = None) -> str:
    """The member, a string that matches wholly; ``default`` if it is absent or null. Raises Refusal."""
    value = parent.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, str) or (pattern is not None and not pattern.fullmatch(value)):
        raise bad(f"{name}: absent or not of its form.")
    return value


def text_at(text: str, *path: str | int) -> str:
    """The text of the value at ``path`` in the JSON ``text``, which was parsed before."""
    at = _skip(text, 0)
    end = len(text)
    for step in path:
        spans = _members(text, at) if isinstance(step, str) else _items(text, at)
        at, end = spans[step]  # type: ignore[index]
    return text[at:end]


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _members(text: str, at: int) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    at = _skip(text, at + 1)
    while text[at] != "}":
        name, at = scanstring(text, at + 1)
        start = _skip(text, _skip(text, at) + 1)
        end = _PLAIN.raw_decode(text, start)[1]
        found[name] = (start, end)
        at = _skip(text, end)
        at = _skip(text, at + 1) if text[at] == "," else at
    return found


def _items(text: str, at: int) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    at = _skip(text, at + 1)
    while text[at] != "]":
        end = _PLAIN.raw_decode(text, at)[1]
        found.append((at, end))
        at = _skip(text, end)
        at = _skip(text, at + 1) if text[at] == "," else at
    return found

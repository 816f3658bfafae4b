"""Intel's signed JSON: reading members with the faults that QVL tells apart, and signatures over the raw text.

QVL 1.27 ``JsonParser``: an absent member makes a document of another format, a member of the wrong kind makes it
invalid. A signature is over the body's bytes as Intel sent them, so the body is kept as text and never written anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from math import inf
from typing import Any

#: Documents have 10 to 30 KiB.
MAX_DOCUMENT_SIZE = 1 << 20
#: QVL 1.27 takes no document that is nested deeper.
MAX_DEPTH = 32

Members = dict[str, Any]
_TEXT, _OBJECT = frozenset({str}), frozenset({dict})


class DocumentFault(ValueError):
    """A document that is not what it should be."""


class FormatFault(DocumentFault):
    """Not the format: no JSON, or a member is absent."""


class InvalidFault(DocumentFault):
    """The format, but with a value that is not allowed."""


class VersionFault(DocumentFault):
    """A version of the document that is not supported."""


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_OTHER = bytes(code for code in range(256) if code not in b'{}[]"')
_ONE_KIND = bytes.maketrans(b"[]", b"{}")


def _finite(digits: str) -> float:
    if (number := float(digits)) in (inf, -inf):
        raise ValueError(f"{digits:.20} is too large")
    return number


def _first_wins(pairs: list[tuple[str, Any]]) -> Members:
    return dict(reversed(pairs))


def _no_twice(pairs: list[tuple[str, Any]]) -> Members:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is there more than once")
    return members


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)
_FIRST_WINS = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_first_wins)
_FLAT = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_no_twice)


def load_object(text: str, what: str, *, flat: bool = False) -> Members:
    """Parse one JSON object, bounded in size and depth. Raises FormatFault, or InvalidFault if nested too deeply.

    ``flat`` is for documents that only hold texts: depth needs no check, and no member may be there twice.
    """
    return _load(text, what, _FLAT if flat else _DECODER, flat=flat)


def load_signed(text: str, what: str, colons: Callable[[Members], int]) -> Members:
    """The same for a document in which the first one counts of members with the same name, as with QVL.

    To tell without looking at each member whether there are such: ``colons`` says how many colons a document with
    these members has, outside and inside of strings, if none is there twice and all of them are known ones.
    """
    members = _load(text, what, _DECODER)
    try:
        if text.count(":") == colons(members):
            return members
    except (TypeError, KeyError, AttributeError):  # of another shape: looked at member by member
        pass
    return _load(text, what, _FIRST_WINS)


def _load(text: str, what: str, decoder: json.JSONDecoder, *, flat: bool = False) -> Members:
    if len(text) > MAX_DOCUMENT_SIZE:
        raise FormatFault(f"{what}: {len(text)} characters, more than {MAX_DOCUMENT_SIZE}")
    try:
        value = decoder.decode(text)
    except RecursionError:
        raise InvalidFault(f"{what}: nested more than {MAX_DEPTH} deep") from None
    except ValueError as error:
        raise FormatFault(f"{what}: {error}") from None
    if not isinstance(value, dict):
        raise FormatFault(f"{what}: not a JSON object")
    if not flat:
        _check_depth(value, text, what)
    return value


def _check_depth(value: Members, text: str, what: str) -> None:
    """QVL 1.27 counts the document as depth 1 and refuses a container that has members at depth 32.

    Taking innermost pairs of brackets out of the text, a level at a time, is quick and tells its depth. A string that
    holds brackets leaves a quotation mark behind, unless one in a string is escaped: these are walked through.
    """
    marks = text.encode("utf-8", "surrogatepass").translate(_ONE_KIND, _OTHER).replace(b'""', b"")
    if b'"' not in marks and "\\" not in text:
        for _ in range(MAX_DEPTH - 1):
            marks = marks.replace(b"{}", b"")
            if not marks:
                return
    pending: list[tuple[Any, int]] = [(value, 1)]
    while pending:
        node, depth = pending.pop()
        children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        if children and depth >= MAX_DEPTH:
            raise InvalidFault(f"{what}: nested more than {MAX_DEPTH} deep")
        pending.extend((child, depth + 1) for child in children)


def member(parent: Members, name: str) -> Any:
    """The member. Raises FormatFault if it is absent."""
    try:
        return parent[name]
    except KeyError:
        raise FormatFault(f"no {name}") from None


def unsigned(parent: Members, name: str) -> int:
    """A number of 32 bits. Raises FormatFault if absent, InvalidFault if it is not that."""
    value = member(parent, name)
    if type(value) is not int or not 0 <= value < 1 << 32:
        raise InvalidFault(f"{name}: not a number of 32 bits")
    return value


def text_of(parent: Members, name: str) -> str:
    """A string. Raises FormatFault if absent, InvalidFault if it is not that."""
    value = member(parent, name)
    if type(value) is not str:
        raise InvalidFault(f"{name}: not a string")
    return value


def octets(parent: Members, name: str, size: int) -> bytes:
    """``size`` bytes in hexadecimal. Raises FormatFault if absent, InvalidFault if it is not that."""
    value = parent.get(name)
    if type(value) is not str:
        value = text_of(parent, name)
    try:
        found = bytes.fromhex(value)
    except ValueError:
        raise InvalidFault(f"{name}: not {size} bytes in hexadecimal") from None
    if not len(value) == 2 * len(found) == 2 * size:  # spaces between the bytes are skipped, and counted here
        raise InvalidFault(f"{name}: not {size} bytes in hexadecimal")
    return found


def date(parent: Members, name: str) -> int:
    """A date like ``2026-06-01T00:00:00Z``, as Unix seconds. Raises FormatFault or InvalidFault."""
    value = parent.get(name)
    if type(value) is not str:
        value = text_of(parent, name)
    try:
        return unix_seconds(value)
    except ValueError:
        raise InvalidFault(f"{name}: {value!r:.40} is not a date") from None


@lru_cache(maxsize=256)
def unix_seconds(value: str) -> int:
    """Unix seconds of ``YYYY-MM-DDTHH:MM:SSZ``. Raises ValueError."""
    if len(value) != 20 or value[19] != "Z" or value[10] != "T":
        raise ValueError(value)
    return int(datetime.fromisoformat(value).timestamp())


def advisories(parent: Members) -> tuple[str, ...]:
    """The optional ``advisoryIDs``. Raises InvalidFault if it is not an array of strings."""
    value = parent.get("advisoryIDs")
    if value is None and "advisoryIDs" not in parent:
        return ()
    if type(value) is not list or not _TEXT.issuperset(map(type, value)):
        raise InvalidFault("advisoryIDs: not an array of strings")
    return tuple(value)


def objects(parent: Members, name: str, fault: type[DocumentFault] = InvalidFault) -> list[Members]:
    """A non-empty array of objects. Raises ``fault`` if it is not that; absence too."""
    value = parent.get(name)
    if not isinstance(value, list) or not value:
        raise fault(f"{name}: not an array with members")
    if not _OBJECT.issuperset(map(type, value)):
        raise FormatFault(f"{name}: has members that are not objects")
    return value


def signed_body(response: str, name: str) -> tuple[str, str]:
    """The raw text of member ``name`` and the string ``signature`` of a PCS response such as ``{"tcbInfo":{...},
    "signature":"..."}``. Raises FormatFault."""
    members = load_object(response, "response")
    signature = members.get("signature")
    if name not in members or not isinstance(signature, str):
        raise FormatFault(f"response: no {name} with a signature")
    at = response.find(f'"{name}"')
    at = response.find(":", at + len(name) + 2) + 1
    at += len(response[at:]) - len(response[at:].lstrip(" \t\r\n"))
    value, end = _DECODER.raw_decode(response, at)
    if value != members[name]:
        raise FormatFault(f"response: {name} is there more than once")
    return response[at:end], signature

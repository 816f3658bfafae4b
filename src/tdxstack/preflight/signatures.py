"""Signs of trouble in logs, from ``data/signatures.toml``, made ready for one pass over a log."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, lru_cache
from importlib import import_module
from typing import Any, Protocol

from tdxstack.preflight import seamcall
from tdxstack.preflight.data import table


def by_lines(pattern: bytes) -> Probe:
    """The pattern as one search over many lines, each of which it sees as it would alone."""
    text = b"(?m)" + pattern
    if expressions is re:
        return re.compile(text)
    options = expressions.Options()
    options.encoding = expressions.Options.Encoding.LATIN1
    options.log_errors = False
    probe: Probe = expressions.compile(text, options)
    return probe


def _engine() -> Any:
    """RE2 searches for all anchors at some 700 MB/s; the standard library at 40: it stands in where RE2 is not."""
    try:
        return import_module("re2")
    except ImportError:
        return re


expressions = _engine()
#: Never matches, in either engine.
NEVER = b"a^"


class Severity(StrEnum):
    """How grave a sign is. A mark is no trouble: it is noted for what should follow it."""

    ERROR = "error"
    WARNING = "warning"
    MARK = "mark"


@dataclass(frozen=True, slots=True)
class Signature:
    """One sign: where ``anchors`` stand in a line and ``pattern`` (if any) matches it."""

    id: str
    title: str
    severity: Severity
    anchors: tuple[bytes, ...]
    pattern: re.Pattern[bytes] | None
    cause: str
    fix: str
    decode: str


@dataclass(frozen=True, slots=True)
class Absence:
    """Something that was seen, and what should have followed it and did not."""

    id: str
    title: str
    seen: str
    without: tuple[str, ...]
    cause: str
    fix: str


@dataclass(frozen=True, slots=True)
class Book:
    """All signatures, and what should follow what."""

    signatures: tuple[Signature, ...]
    absences: tuple[Absence, ...]

    def search(self, without: frozenset[str] = frozenset()) -> Search:
        """The search for all signatures but those of these names."""
        return _search(self.signatures, without)


class Found(Protocol):
    """A match, of either engine."""

    def start(self) -> int: ...
    def group(self) -> bytes: ...


class Probe(Protocol):
    """An expression, of either engine."""

    def finditer(self, data: bytes, /) -> Iterator[Found]: ...


@dataclass(frozen=True, slots=True)
class Search:
    """One expression of all anchors, and whose each is."""

    probe: Probe
    owners: dict[bytes, tuple[Signature, ...]]

    def hits(self, data: bytes) -> Iterator[tuple[int, Signature]]:
        """(position, signature) of every anchor that stands in ``data``."""
        for found in self.probe.finditer(data):
            for signature in self.owners[found.group()]:
                yield found.start(), signature


@lru_cache(maxsize=16)
def _search(signatures: tuple[Signature, ...], without: frozenset[str]) -> Search:
    chosen = [signature for signature in signatures if signature.id not in without]
    anchors = {anchor: [one for one in chosen if anchor in one.anchors] for one in chosen for anchor in one.anchors}
    longest_first = sorted(anchors, key=len, reverse=True)
    probe = expressions.compile(b"|".join(map(re.escape, longest_first)) if anchors else NEVER)
    # The expression reports the longest of the anchors that begin at one place: what is inside it counts too.
    inner = {anchor: [one for other in anchors if other in anchor for one in anchors[other]] for anchor in anchors}
    return Search(probe, {anchor: tuple({one.id: one for one in inner[anchor]}.values()) for anchor in anchors})


@cache
def book() -> Book:
    """The signatures of this release."""
    data = table("signatures")
    return Book(tuple(map(_signature, data["signature"])), tuple(map(_absence, data["absence"])))


def _signature(entry: dict[str, str | list[str]]) -> Signature:
    pattern = entry.get("pattern")
    return Signature(
        id=str(entry["id"]),
        title=str(entry["title"]),
        severity=Severity(str(entry["severity"])),
        anchors=tuple(anchor.encode() for anchor in entry["anchors"]),
        pattern=re.compile(str(pattern).encode()) if pattern else None,
        cause=str(entry.get("cause", "")),
        fix=str(entry.get("fix", "")),
        decode=str(entry.get("decode", "")),
    )


def _absence(entry: dict[str, str | list[str]]) -> Absence:
    return Absence(
        id=str(entry["id"]),
        title=str(entry["title"]),
        seen=str(entry["seen"]),
        without=tuple(entry["without"]),
        cause=str(entry["cause"]),
        fix=str(entry["fix"]),
    )


@dataclass(frozen=True, slots=True)
class Decoded:
    """A detail in words. ``cause`` and ``fix`` are empty where the signature's own hold."""

    text: str
    cause: str = ""
    fix: str = ""


def decode(how: str, detail: str, line: str) -> Decoded:
    """Say a detail in words.

    Args:
        how: seamcall, quote, qcnl, errno, or empty for no code.
        detail: the first group of the pattern.
        line: the line, for what else it tells (the leaf of a SEAMCALL).
    """
    number = _number(detail)
    if not how or number is None:
        return Decoded(detail)
    if how == "seamcall":
        status = seamcall.decode(number, seamcall.leaf_of(line))
        return Decoded(f"{number:#018x}", status.text, status.fix or "")
    if how == "errno":
        return Decoded(f"{detail} ({os.strerror(abs(number))})")
    entry = table("codes")["code"].get(f"{number:04x}")
    if entry is None:
        return Decoded(f"{number:#06x}", "a code that is not in the tables", "see the lines before it")
    name = f"{entry['name']}: " if "name" in entry else ""
    return Decoded(f"{number:#06x}", f"{name}{entry['text']}", entry.get("fix", ""))


def _number(detail: str) -> int | None:
    try:
        return int(detail, 0)
    except ValueError:
        return None

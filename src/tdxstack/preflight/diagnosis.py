"""Read logs and say what is wrong in plain words.

Logs are read in blocks; memory does not grow with their size: of each sign a count and its first line are kept, and
lines longer than 64 KiB are cut. A sign that was seen 10,000 times is no longer looked for in that log, and one whose
anchors stood in 1,000 lines that are none is looked for by its whole pattern, so that a log full of one fault, or of
what looks like one, is read about as fast as any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from tdxstack.preflight.signatures import Book, Probe, Severity, Signature, book, by_lines, decode

BLOCK = 256 << 10
MAX_LINE = 64 << 10
#: An example line is cut to this length.
SHOWN = 300
ENOUGH = 10_000
#: Lines with a signature's anchor and without the signature, after which the anchor is no help.
FRUITLESS = 1_000
#: Different details (codes) kept of one signature.
MAX_DETAILS = 32
#: A message of the journal as systemd writes it in JSON where it has other characters than printable ones.
_NUMBERS = re.compile(rb'"MESSAGE"\s*:\s*\[([0-9]{1,3}(?:,\s*[0-9]{1,3})*)\]')


class Readable(Protocol):
    """What a log is read from."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(slots=True)
class Sighting:
    """A sign in one log: how often (``ENOUGH`` means: or more), where first, and what it means."""

    signature: Signature
    detail: str
    source: str
    line_number: int
    line: str
    count: int = 1
    cause: str = ""
    fix: str = ""

    @property
    def key(self) -> tuple[str, str]:
        return self.signature.id, self.detail


@dataclass(slots=True)
class Scan:
    """What one log brought."""

    source: str
    size: int = 0
    lines: int = 0
    sightings: dict[tuple[str, str], Sighting] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)


class Scanner:
    """Reads one log from start to end."""

    def __init__(self, source: str, signatures: Book | None = None) -> None:
        self._book = signatures or book()
        self._full: frozenset[str] = frozenset()
        self._fruitless: dict[str, int] = {}
        self._whole: dict[str, tuple[Signature, Probe]] = {}
        self._search = self._book.search()
        self.scan = Scan(source)

    def read(self, stream: Readable) -> Scan:
        """Read ``stream`` to its end."""
        rest = b""
        while block := stream.read(BLOCK):
            self.scan.size += len(block)
            rest = self._feed(rest + block)
        if rest:
            self._look(_spoken(rest))
            self.scan.lines += 1
        return self.scan

    def _feed(self, data: bytes) -> bytes:
        """Look at the whole lines of ``data``; the rest is what comes before the next newline."""
        end = data.rfind(b"\n") + 1
        if not end and len(data) > MAX_LINE:
            self._look(data)
            return b""
        if end:
            whole = _spoken(data[:end])
            self._look(whole)
            self.scan.lines += whole.count(b"\n")
        return data[end:]

    def _look(self, data: bytes) -> None:
        places: dict[tuple[int, str], Signature] = {}
        for at, signature in self._search.hits(data):
            places[data.rfind(b"\n", 0, at) + 1, signature.id] = signature
        for signature, probe in self._whole.values():
            for found in probe.finditer(data):
                places[data.rfind(b"\n", 0, found.start()) + 1, signature.id] = signature
        for (start, _), signature in sorted(places.items(), key=lambda item: item[0]):
            stop = data.find(b"\n", start)
            line = data[start : start + MAX_LINE if stop < 0 else min(stop, start + MAX_LINE)]
            self._line(signature, line, data, start)
        self._settle()

    def _settle(self) -> None:
        """Take out of the search for anchors what was seen often enough, and what is looked for whole."""
        full = {identity for identity, count in self.scan.seen.items() if count >= ENOUGH}
        for signature in self._book.signatures:
            often = self._fruitless.get(signature.id, 0) >= FRUITLESS
            if often and signature.pattern and signature.id not in self._whole:
                self._whole[signature.id] = signature, by_lines(signature.pattern.pattern)
        self._whole = {identity: one for identity, one in self._whole.items() if identity not in full}
        out = frozenset(full | set(self._whole))
        if out != self._full:
            self._full = out
            self._search = self._book.search(out)

    def _line(self, signature: Signature, line: bytes, data: bytes, start: int) -> None:
        match = signature.pattern.search(line) if signature.pattern else None
        if signature.pattern and match is None:
            self._fruitless[signature.id] = self._fruitless.get(signature.id, 0) + 1
            return
        detail = match[1] if match and signature.pattern and signature.pattern.groups else None
        self._note(signature, (detail or b"").decode(errors="replace"), line, data, start)

    def _note(self, signature: Signature, detail: str, line: bytes, data: bytes, start: int) -> None:
        seen = self.scan.seen
        seen[signature.id] = seen.get(signature.id, 0) + 1
        known = self.scan.sightings.get((signature.id, detail))
        if known is not None:
            known.count += 1
        elif sum(1 for identity, _ in self.scan.sightings if identity == signature.id) < MAX_DETAILS:
            words = decode(signature.decode, detail, line.decode(errors="replace"))
            self.scan.sightings[signature.id, detail] = Sighting(
                signature,
                words.text,
                self.scan.source,
                self.scan.lines + data.count(b"\n", 0, start) + 1,
                line[:SHOWN].decode(errors="replace").strip(),
                cause=words.cause or signature.cause,
                fix=words.fix or signature.fix,
            )


def _spoken(data: bytes) -> bytes:
    """The lines, with messages that the journal's JSON keeps as numbers (what is not plain text) as text."""
    if b'"MESSAGE"' not in data:
        return data
    return _NUMBERS.sub(_as_text, data)


def _as_text(found: re.Match[bytes]) -> bytes:
    values = (int(number) for number in found[1].split(b","))
    text = bytes(value if 32 <= value < 256 else 32 for value in values)
    return b'"MESSAGE":"' + text + b'"'


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, over all logs: one for each sign and code."""

    id: str
    severity: Severity
    title: str
    detail: str
    cause: str
    fix: str
    count: int
    source: str
    line_number: int
    line: str

    def body(self) -> dict[str, object]:
        return {
            "id": self.id,
            "severity": self.severity.value,
            "title": self.title,
            "detail": self.detail,
            "cause": self.cause,
            "fix": self.fix,
            "count": self.count,
            "source": self.source,
            "line_number": self.line_number,
            "line": self.line,
        }


def problems(scans: Sequence[Scan], signatures: Book | None = None) -> list[Problem]:
    """Join what the logs brought, errors first, then in the order of the table."""
    chosen = signatures or book()
    joined: dict[tuple[str, str], Problem] = {}
    for scan in scans:
        for sighting in scan.sightings.values():
            if sighting.signature.severity is not Severity.MARK:
                _join(joined, sighting)
    found = [*joined.values(), *_absences(scans, chosen)]
    order = {signature.id: number for number, signature in enumerate(chosen.signatures)}
    return sorted(found, key=lambda one: (one.severity is not Severity.ERROR, order.get(one.id, -1)))


def _join(joined: dict[tuple[str, str], Problem], sighting: Sighting) -> None:
    known = joined.get(sighting.key)
    if known is None:
        joined[sighting.key] = Problem(
            id=sighting.signature.id,
            severity=sighting.signature.severity,
            title=sighting.signature.title,
            detail=sighting.detail,
            cause=sighting.cause,
            fix=sighting.fix,
            count=sighting.count,
            source=sighting.source,
            line_number=sighting.line_number,
            line=sighting.line,
        )
        return
    joined[sighting.key] = replace(known, count=known.count + sighting.count)


def _absences(scans: Sequence[Scan], signatures: Book) -> Iterator[Problem]:
    for absence in signatures.absences:
        for scan in scans:
            if absence.seen in scan.seen and not any(name in scan.seen for name in absence.without):
                seen = next(one for one in scan.sightings.values() if one.signature.id == absence.seen)
                yield Problem(
                    absence.id,
                    Severity.ERROR,
                    absence.title,
                    "",
                    absence.cause,
                    absence.fix,
                    1,
                    scan.source,
                    seen.line_number,
                    seen.line,
                )


def text(found: Sequence[Problem], scans: Sequence[Scan]) -> str:
    """The problems in words."""
    lines: list[str] = []
    for one in found:
        times = f"{one.count} times" if one.count > 1 else "once"
        times = f"{ENOUGH} times or more" if one.count >= ENOUGH else times
        lines.append(
            f"{one.severity.value}: {one.title}" + (f" ({one.detail})" if one.detail else "") + f"  [{one.id}]"
        )
        lines.append(
            f"  seen:  {times}, first in {one.source}" + (f", line {one.line_number}" if one.line_number else "")
        )
        lines.extend([f"         {one.line}"] if one.line else [])
        lines.append(f"  cause: {one.cause}")
        lines.append(f"  fix:   {one.fix}")
        lines.append("")
    size = sum(scan.size for scan in scans)
    logs = f"{len(scans)} log{'s' if len(scans) != 1 else ''}"
    lines.append(f"{len(found)} problem{'s' if len(found) != 1 else ''} in {logs} ({size / 1e6:.1f} MB)")
    return "\n".join(lines)

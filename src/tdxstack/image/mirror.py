"""The package mirror that this machine uses, from its apt configuration (sources.list(5)); never one we choose."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: Names by which each distribution's own archive is known in a source entry, without pockets such as ``-security``.
SUITES: dict[str, tuple[str, ...]] = {
    "debian": ("bullseye", "bookworm", "trixie", "forky", "sid", "oldstable", "stable", "testing", "unstable"),
    "ubuntu": ("focal", "jammy", "noble", "plucky", "questing"),
}


@dataclass(frozen=True, slots=True)
class Source:
    """One configured archive: a URI and the suites taken from it."""

    uri: str
    suites: tuple[str, ...]


def parse_list(content: str) -> Iterator[Source]:
    """Binary-package entries of a one-line-style file; lines that are not entries are skipped."""
    for line in content.splitlines():
        match = re.fullmatch(r"\s*deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+(\S+)\s+.*", line)
        if match:
            yield Source(match[1], (match[2],))


def parse_deb822(content: str) -> Iterator[Source]:
    """Enabled binary-package entries of a deb822-style file."""
    for block in re.split(r"\n\s*\n", content):
        fields = _fields(block)
        enabled = fields.get("enabled", "yes").lower() not in ("no", "false", "0")
        if enabled and "deb" in fields.get("types", "").split():
            for uri in fields.get("uris", "").split():
                yield Source(uri, tuple(fields.get("suites", "").split()))


def _fields(block: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    name = ""
    for line in block.splitlines():
        if line.startswith("#"):
            continue
        if line[:1].isspace():
            fields[name] = fields.get(name, "") + " " + line.strip()
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
    return fields


def sources(apt: Path) -> Iterator[Source]:
    """All entries below an apt configuration directory such as ``/etc/apt``, in apt's order."""
    files = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]
    for path in files:
        if path.suffix == ".list" and path.is_file():
            yield from parse_list(path.read_text(errors="replace"))
        elif path.suffix == ".sources" and path.is_file():
            yield from parse_deb822(path.read_text(errors="replace"))


def _resolved(uri: str) -> str:
    """The first mirror of a ``mirror+file:`` list, or the URI itself."""
    if not uri.startswith("mirror+file:"):
        return uri
    listing = Path(re.sub(r"^mirror\+file:/*", "/", uri))
    lines = listing.read_text(errors="replace").splitlines() if listing.is_file() else []
    return next((line.split()[0] for line in lines if line.strip() and not line.startswith("#")), uri)


def configured_mirror(distribution: str, apt: Path = Path("/etc/apt")) -> str | None:
    """URI of the archive of ``debian`` or ``ubuntu`` that this machine installs from, or None.

    ``TDXSTACK_MIRROR_DEBIAN`` and ``TDXSTACK_MIRROR_UBUNTU`` say otherwise.
    """
    if override := os.environ.get(f"TDXSTACK_MIRROR_{distribution.upper()}"):
        return override.rstrip("/")
    known = SUITES.get(distribution, ())
    for source in sources(apt):
        if set(known).intersection(source.suites):
            return _resolved(source.uri).rstrip("/")
    return None

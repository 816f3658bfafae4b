"""Collateral on disk, and when it may be used.

A set may be used while every part of it holds (documents, CRLs, certificates). It is asked for anew when it is older
than ``max_age`` all the same, since Intel publishes before the old issue ends; if that fails, the set that still
holds is used. What has expired is never handed out.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from tdxstack.dcap import Collateral
from tdxstack.errors import CollateralError, CollateralUnreachable
from tdxstack.pcs.archive import Archive
from tdxstack.pcs.collateral import Wanted, describe, fetch
from tdxstack.pcs.inspect import Span
from tdxstack.pcs.source import Source
from tdxstack.system import files

#: A set that is older is asked for anew, in seconds.
MAX_AGE = 12 * 3600
_LARGEST = 8 << 20


@dataclass(frozen=True, slots=True)
class Cached:
    """A set, when it was fetched (Unix seconds) and when it holds. ``fresh`` tells whether this call fetched it."""

    collateral: Collateral
    fetched: int
    span: Span
    fresh: bool = False
    #: Why an older set is handed out, where the source could not be asked.
    fault: str = ""


class Cache:
    """A directory of sets; processes may share it. With an ``archive``, whatever is fetched is kept there too."""

    def __init__(self, directory: Path, *, max_age: int = MAX_AGE, archive: Archive | None = None) -> None:
        self.directory = files.private_directory(directory)
        self.max_age = max_age
        self.archive = archive

    def get(self, source: Source, wanted: Wanted, now: int, *, offline: bool = False) -> Cached:
        """The set, from disk or from ``source``.

        Args:
            now: Unix seconds.
            offline: never ask the source.

        Raises:
            CollateralError: there is none that holds, and none can be fetched.
        """
        kept = self.read(source.name, wanted)
        usable = kept if kept is not None and kept.span.holds(now) else None
        if usable is not None and (offline or 0 <= now - usable.fetched < self.max_age):
            return usable
        if offline:
            state = "has expired" if kept else "is not on this machine"
            raise CollateralError(
                str(wanted), f"collateral of {wanted} {state}", hint="fetch it: tdxctl collateral fetch"
            )
        try:
            return self._renew(source, wanted, now)
        except CollateralUnreachable as error:
            if usable is None:
                raise
            return Cached(usable.collateral, usable.fetched, usable.span, fault=error.message)

    def _renew(self, source: Source, wanted: Wanted, now: int) -> Cached:
        collateral = fetch(source, wanted)
        span = describe(collateral).span
        if not span.holds(now):
            raise CollateralError(
                str(wanted),
                f"{source.name}: the collateral of {wanted} that it serves does not hold now",
                hint="check this machine's clock (timedatectl), and refresh the PCCS: POST /refresh",
            )
        self.write(source.name, wanted, collateral, now)
        if self.archive is not None:
            self.archive.add(collateral, wanted.evaluation.name)
        return Cached(collateral, now, span, fresh=True)

    def read(self, source: str, wanted: Wanted) -> Cached | None:
        """What is on disk, whether it holds or not; None if there is nothing that can be read."""
        path = self._path(source, wanted)
        try:
            if path.stat().st_size > _LARGEST:
                return None
            entry = json.loads(path.read_text())
            collateral = Collateral.from_json(json.dumps(entry["collateral"]))
            return Cached(collateral, int(entry["fetched"]), describe(collateral).span)
        except (OSError, ValueError, KeyError, TypeError, CollateralError):
            return None

    def write(self, source: str, wanted: Wanted, collateral: Collateral, now: int) -> None:
        """Keep a set."""
        path = self._path(source, wanted)
        files.private_directory(path.parent)
        entry = {"source": source, "fetched": now, "collateral": json.loads(collateral.to_json())}
        files.write_atomic(path, json.dumps(entry, ensure_ascii=False))

    def entries(self) -> list[tuple[str, str, Cached]]:
        """Everything in the cache: source, key, set; sorted."""
        found = []
        for path in sorted(self.directory.glob("*/*.json")):
            try:
                entry = json.loads(path.read_text())
                collateral = Collateral.from_json(json.dumps(entry["collateral"]))
                cached = Cached(collateral, int(entry["fetched"]), describe(collateral).span)
                found.append((str(entry["source"]), path.stem, cached))
            except (OSError, ValueError, KeyError, TypeError, CollateralError):
                continue
        return found

    def clear(self, now: int | None = None) -> int:
        """Remove all sets, or those that have expired by ``now``; how many."""
        removed = 0
        for path in self.directory.glob("*/*.json"):
            if now is not None and self._holds(path, now):
                continue
            path.unlink(missing_ok=True)
            removed += 1
        return removed

    @staticmethod
    def _holds(path: Path, now: int) -> bool:
        try:
            collateral = Collateral.from_json(json.dumps(json.loads(path.read_text())["collateral"]))
            return describe(collateral).span.holds(now)
        except (OSError, ValueError, KeyError, TypeError, CollateralError):
            return False

    def _path(self, source: str, wanted: Wanted) -> Path:
        host = re.sub(r"[^A-Za-z0-9.]+", "-", source.rsplit("://", maxsplit=1)[-1])[:40]
        tag = hashlib.sha256(source.encode()).hexdigest()[:12]
        return self.directory / f"{host}-{tag}" / f"{wanted.key}.json"

"""An archive of collateral by issue date, so that an old verdict can be reached again.

``DIRECTORY/tdx-00806F050000/platform-standard/20250619T103227Z-17-1a2b3c4d.json``: TEE and FMSPC, CA and evaluation
set, then the time from which the set holds, its evaluation data number and a digest of its content.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

from tdxstack.dcap import Collateral
from tdxstack.errors import CollateralError
from tdxstack.pcs.collateral import Described, Wanted, describe
from tdxstack.system import files


@dataclass(frozen=True, slots=True)
class Kept:
    """A set in the archive."""

    path: Path
    evaluation: str
    described: Described
    collateral: Collateral


class Archive:
    """A directory that only grows. The same set is kept once."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def add(self, collateral: Collateral, evaluation: str) -> Path:
        """Keep a set; return its file.

        Raises:
            CollateralError: it cannot be read.
        """
        described = describe(collateral)
        text = collateral.to_json()
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(described.span.start))
        tag = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        folder = self.directory / f"{described.tee}-{described.fmspc}" / f"{described.ca}-{evaluation}"
        path = folder / f"{stamp}-{described.number}-{tag}.json"
        if not path.exists():
            files.private_directory(folder)
            files.write_atomic(path, text)
        return path

    def find(self, wanted: Wanted, at: int) -> Kept:
        """The set that held at ``at`` (Unix seconds); of several, the one issued last.

        Raises:
            CollateralError: none of them held then.
        """
        folder = self.directory / f"{wanted.tee}-{wanted.fmspc}" / f"{wanted.ca}-{wanted.evaluation}"
        for path in sorted(folder.glob("*.json"), reverse=True):
            kept = _read(path)
            if kept is not None and kept.described.span.holds(at):
                return kept
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
        raise CollateralError(
            str(wanted),
            f"no collateral of {wanted} that held at {moment} is in {self.directory}",
            hint="tdxctl collateral archive list shows what there is; archive add FILE takes in a set",
        )

    def entries(self) -> list[Kept]:
        """All sets, sorted by what they are for and then by time."""
        found = (_read(path) for path in sorted(self.directory.glob("*/*/*.json")))
        return [kept for kept in found if kept is not None]


def _read(path: Path) -> Kept | None:
    try:
        collateral = Collateral.from_json(path.read_text())
        return Kept(path, path.parent.name.split("-", 1)[1], describe(collateral), collateral)
    except (OSError, ValueError, IndexError, CollateralError):
        return None

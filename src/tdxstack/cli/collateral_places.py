"""Where the user's collateral is kept: the cache, and the archive that remembers all that was fetched."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tdxstack.pcs.archive import Archive
    from tdxstack.pcs.cache import Cache


def archive(directory: Path | None = None) -> Archive:
    """The archive of this user, or another one."""
    from tdxstack.pcs.archive import Archive
    from tdxstack.system import paths

    return Archive(directory or paths.home() / "collateral-archive")


def cache() -> Cache:
    """The cache of this user; what goes in goes into the archive too."""
    from tdxstack.pcs.cache import Cache
    from tdxstack.system import paths

    return Cache(paths.cache() / "collateral", archive=archive())

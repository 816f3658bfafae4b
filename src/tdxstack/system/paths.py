"""Where tdxstack keeps its things.

========== ================================================== =======================================
what       default                                            overridden by
========== ================================================== =======================================
home       ``~/.local/share/tdxstack`` (XDG_DATA_HOME)        ``TDXSTACK_HOME``
cache      ``~/.cache/tdxstack`` (XDG_CACHE_HOME)             ``TDXSTACK_CACHE``, ``TDXSTACK_HOME/cache``
runtime    ``/run/tdxstack`` (root) or XDG_RUNTIME_DIR        ``TDXSTACK_RUNTIME``
========== ================================================== =======================================

The runtime directory holds Unix sockets, whose paths may be 107 bytes long at most; it is therefore short and
carries a digest of the home, so that several homes on one machine do not meet.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tdxstack.system.files import private_directory

_only_looking = False


@contextlib.contextmanager
def only_looking() -> Iterator[None]:
    """Make no directory within: a dry run tells where things would be."""
    global _only_looking  # noqa: PLW0603 - of the process, like the environment that says where things are
    before, _only_looking = _only_looking, True
    try:
        yield
    finally:
        _only_looking = before


def looking() -> bool:
    """Whether this is a dry run."""
    return _only_looking


def _directory(path: Path) -> Path:
    return path if _only_looking else private_directory(path)


def home() -> Path:
    """Directory of everything that must outlive a reboot."""
    return _directory(_home())


def _home() -> Path:
    if configured := os.environ.get("TDXSTACK_HOME"):
        return Path(configured).absolute()
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "tdxstack"


def platforms() -> Path:
    return _directory(home() / "platforms")


def tds(*, create: bool = True) -> Path:
    return _directory(home() / "tds") if create else _home() / "tds"


def images(*, create: bool = True) -> Path:
    """Directory of images; who only reads does not create it."""
    return _directory(home() / "images") if create else _home() / "images"


def cache() -> Path:
    """Directory of what can be made again."""
    if configured := os.environ.get("TDXSTACK_CACHE"):
        return _directory(Path(configured).absolute())
    if os.environ.get("TDXSTACK_HOME"):
        return _directory(home() / "cache")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return _directory(Path(base) / "tdxstack")


def runtime() -> Path:
    """Directory of sockets and other things that end with a reboot."""
    tag = hashlib.sha256(str(home()).encode()).hexdigest()[:8]
    if configured := os.environ.get("TDXSTACK_RUNTIME"):
        base = Path(configured).absolute()
    elif os.geteuid() == 0 and os.access("/run", os.W_OK):
        base = Path("/run/tdxstack")
    elif runtime_dir := os.environ.get("XDG_RUNTIME_DIR"):
        base = Path(runtime_dir) / "tdxstack"
    else:
        base = Path(tempfile.gettempdir()) / f"tdxstack-{os.geteuid()}"
    return _directory(_directory(base) / tag)

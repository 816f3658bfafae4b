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

import hashlib
import os
import tempfile
from pathlib import Path

from tdxstack.system.files import private_directory


def home() -> Path:
    """Directory of everything that must outlive a reboot."""
    return private_directory(_home())


def _home() -> Path:
    if configured := os.environ.get("TDXSTACK_HOME"):
        return Path(configured).absolute()
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "tdxstack"


def platforms() -> Path:
    return private_directory(home() / "platforms")


def tds(*, create: bool = True) -> Path:
    return private_directory(home() / "tds") if create else _home() / "tds"


def images(*, create: bool = True) -> Path:
    """Directory of images; who only reads does not create it."""
    return private_directory(home() / "images") if create else _home() / "images"


def cache() -> Path:
    """Directory of what can be made again."""
    if configured := os.environ.get("TDXSTACK_CACHE"):
        return private_directory(Path(configured).absolute())
    if os.environ.get("TDXSTACK_HOME"):
        return private_directory(home() / "cache")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return private_directory(Path(base) / "tdxstack")


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
    return private_directory(private_directory(base) / tag)

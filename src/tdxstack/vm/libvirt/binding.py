"""libvirt's Python binding: an installed ``libvirt-python`` (extra ``tdxstack[libvirt]``), or the distribution's.

The distribution's binding (Debian: python3-libvirt) lies outside a virtual environment. It is taken from there if it
was built for this very Python, which the file name of its compiled part tells.
"""

from __future__ import annotations

import importlib
import sys
import sysconfig
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from tdxstack.errors import PlatformMissing

NAMES = ("libvirt", "libvirt_qemu", "libvirtmod", "libvirtmod_qemu")
#: Where distributions keep Python packages: Debian and its kin; Fedora, RHEL and SUSE.
PLACES = (
    Path("/usr/lib/python3/dist-packages"),
    Path(f"/usr/lib64/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"),
)


class _DistributionFinder(MetaPathFinder):
    """Finds the binding's modules, and nothing else, in one directory."""

    def __init__(self, place: Path) -> None:
        self._place = str(place)

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return PathFinder.find_spec(fullname, [self._place]) if fullname in NAMES else None


def load(name: str = "libvirt") -> Any:
    """The module ``libvirt`` (or ``libvirt_qemu``), with its habit of printing errors turned off.

    Raises:
        PlatformMissing: there is no binding for this Python.
    """
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError:
        place = _place()
        if place is None:
            raise PlatformMissing(
                "libvirt's Python binding is not installed",
                hint="apt-get install python3-libvirt, or pip install 'tdxstack[libvirt]'",
            ) from None
        sys.meta_path.append(_DistributionFinder(place))
        module = importlib.import_module(name)
    if name == "libvirt":
        module.registerErrorHandler(_say_nothing, None)
    return module


def _place() -> Path | None:
    compiled = f"libvirtmod{sysconfig.get_config_var('EXT_SUFFIX')}"
    return next((place for place in PLACES if (place / compiled).exists()), None)


def _say_nothing(_context: Any, _error: Any) -> None:
    return

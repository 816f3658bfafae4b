"""The platforms of this machine, opened by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tdxstack.errors import PlatformMissing
from tdxstack.platform.base import DEFAULT_SOFTWARE, HARDWARE, Platform, PlatformKind


def _open_software(name: str) -> Platform:
    from tdxstack.platform.software.platform import SoftwarePlatform

    return SoftwarePlatform.open(name)


def _open_hardware(name: str) -> Platform:
    from tdxstack.platform.linux_host import HardwarePlatform

    return HardwarePlatform.open(name)


_OPENERS: Mapping[PlatformKind, Callable[[str], Platform]] = {
    PlatformKind.SOFTWARE: _open_software,
    PlatformKind.TDX: _open_hardware,
}


def default_name() -> str:
    """TDX hardware if this host has it, else the default software platform."""
    from tdxstack.platform.linux_host import probe

    return HARDWARE if probe().usable else DEFAULT_SOFTWARE


def open_platform(name: str | None = None) -> Platform:
    """Open a platform by name; None means TDX hardware if this host has it, else the default software platform.

    The default software platform is made on first use.

    Raises:
        PlatformMissing: no such platform.
    """
    if name is None:
        name = default_name()
    kind = PlatformKind.TDX if name == HARDWARE else PlatformKind.SOFTWARE
    if name == DEFAULT_SOFTWARE:
        from tdxstack.platform.software.platform import SoftwarePlatform

        return SoftwarePlatform.open_or_create(name)
    return _OPENERS[kind](name)


def list_platforms() -> list[Platform]:
    """All platforms of this machine: the hardware, if it is usable, then the software platforms by name."""
    from tdxstack.platform.linux_host import probe
    from tdxstack.platform.software.platform import SoftwarePlatform

    found: list[Platform] = []
    if probe().usable:
        found.append(_open_hardware(HARDWARE))
    for name in SoftwarePlatform.names():
        try:
            found.append(_open_software(name))
        except PlatformMissing:
            continue
    return found

"""Where a host check reads: this machine, or a captured tree."""

from __future__ import annotations

from pathlib import Path

from tdxstack.platform.linux_captured import CapturedHost
from tdxstack.platform.linux_host_files import HostReadError
from tdxstack.platform.linux_host_source import HostSource, LiveHost


def open_host(root: Path | None) -> HostSource:
    """This machine, or the tree at ``root``.

    Raises:
        HostReadError: there is no such tree.
    """
    if root is None:
        return LiveHost()
    if not root.is_dir():
        raise HostReadError(str(root), "no such directory", missing=True)
    return CapturedHost(root)

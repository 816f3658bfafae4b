"""Where a TD's machine runs and its large files lie: this machine, or another one whose libvirtd is reached by ssh.

The definition, its state and the supervisor are always here. What QEMU opens (images, kernels, firmware, overlay,
saved memory, its sockets and logs) lies at the TD's site, and the paths in its specification are paths there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from tdxstack.errors import PlatformMissing
from tdxstack.vm.spec import TdSpec, Via

if TYPE_CHECKING:
    from tdxstack.vm.dialects import Dialect

#: Whether a port (number, ``tcp`` or ``udp``) of 127.0.0.1 is free.
PortIsFree = Callable[[int, str], bool]


class Site(Protocol):
    """What the life of a TD needs of the machine that it runs on. ``key`` tells one site from another; "" is here."""

    @property
    def key(self) -> str: ...

    def directory(self, name: str) -> Path:
        """The directory of a TD's overlay, logs and saved states."""
        ...

    def run_dir(self, name: str) -> Path:
        """The directory of the sockets of a TD's QEMU."""
        ...

    def check(self, spec: TdSpec) -> None:
        """Raise PlatformMissing for what cannot run there, UsageError for a file that cannot be read there."""
        ...

    def dialect(self, spec: TdSpec) -> Dialect: ...

    def accelerator(self, spec: TdSpec) -> str: ...

    def firmware(self, spec: TdSpec) -> Path | None: ...

    def needs_smm(self, firmware: Path | None) -> bool: ...

    def digest(self, path: Path) -> str:
        """SHA-256 of a file, in hex."""
        ...

    def image_format(self, path: Path) -> str: ...

    def program(self, name: str) -> str:
        """A program's absolute path. Raises ProgramMissing."""
        ...

    def user(self) -> tuple[int, int]:
        """User and group to whom the TD's files belong."""
        ...

    def free_ports(self) -> PortIsFree: ...

    def prepare(self, name: str, authorized_keys: str, *, goes_on: bool) -> None:
        """Make the TD's directories, forget the console of its last run unless that ``goes_on``, and write the keys
        that may log in.
        """
        ...

    def exists(self, path: Path) -> bool: ...

    def make_overlay(self, image: Path, overlay: Path) -> None: ...

    def make_directory(self, path: Path) -> None: ...

    def copy(self, source: Path, target: Path) -> None:
        """Copy a large file, sparse, sharing blocks where the file system can."""
        ...

    def move(self, source: Path, target: Path) -> None:
        """Put a file, or a directory where there is none, in place of ``target``."""
        ...

    def remove(self, path: Path) -> None:
        """Remove a file or a directory with all in it; it may be absent."""
        ...

    def forget(self, name: str) -> None:
        """Remove what a TD has at this site and not in its directory here."""
        ...


def is_far(spec: TdSpec) -> bool:
    """Whether the TD runs on another machine than this one."""
    return spec.via is Via.LIBVIRT and urlsplit(spec.connect).hostname is not None


def require_here(spec: TdSpec, what: str) -> None:
    """Refuse what only works beside the TD's files.

    Raises:
        PlatformMissing: the TD is on another host.
    """
    if is_far(spec):
        host = urlsplit(spec.connect).hostname
        raise PlatformMissing(
            f"TD {spec.name}: {what} on {host}, whose files are not here",
            hint=f"run tdxctl on {host}: ssh {host} tdxctl td create {spec.name} --via libvirt ...",
        )

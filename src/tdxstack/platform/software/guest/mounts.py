"""mount(2) and umount2(2), and what is laid over the kernel's own directories with them."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from pathlib import Path

from tdxstack.errors import SystemFault

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MNT_DETACH = 2

#: What the kernel's own pseudo file systems are mounted with.
PSEUDO = MS_NOSUID | MS_NODEV | MS_NOEXEC
#: The source of every mount made here: findmnt -S tdxstack-software lists them.
SOURCE = "tdxstack-software"

_MOUNTINFO = "/proc/self/mountinfo"


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: Path, kind: str | None, flags: int = 0, data: str | None = None) -> None:
    """mount(2).

    Raises:
        SystemFault: the kernel refused.
    """
    encoded = (
        os.fsencode(source),
        os.fsencode(target),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        data.encode() if data else None,
    )
    if _libc().mount(*encoded):
        number = ctypes.get_errno()
        hint = "it needs root (CAP_SYS_ADMIN)" if number == errno.EPERM else None
        raise SystemFault(f"cannot mount {kind or 'a bind'} on {target}: {os.strerror(number)}", hint=hint)


def detach(target: Path) -> bool:
    """umount2(2) with MNT_DETACH; whether anything was mounted there."""
    return bool(_libc().umount2(os.fsencode(target), MNT_DETACH) == 0)


def is_mounted(target: Path, kind: str) -> bool:
    """Whether a file system of type ``kind`` is mounted exactly on ``target``."""
    return any(where == str(target) and what.split(".")[0] == kind for where, what, _ in _mounts())


def detach_own(target: Path) -> None:
    """Take away what an earlier process of this program, killed perhaps, left mounted on ``target`` or below."""
    prefix = f"{target}/"
    for _ in range(64):
        own = [where for where, _, source in _mounts() if source == SOURCE and f"{where}/".startswith(prefix)]
        if not own or not detach(Path(own[-1])):
            return


def _mounts() -> list[tuple[str, str, str]]:
    """(mount point, type, source) of each mount, in the order in which they were made."""
    found = []
    with contextlib.suppress(OSError):
        for line in Path(_MOUNTINFO).read_text(errors="surrogateescape").splitlines():
            left, _, right = line.partition(" - ")
            where = left.split(" ")[4].encode("latin-1", "surrogateescape").decode("unicode_escape")
            kind, source, *_ = right.split(" ")
            found.append((where, kind, source))
    return found


def require_mounted(target: Path, kind: str) -> None:
    """Mount a pseudo file system of the kernel where it belongs, unless it is there.

    Raises:
        SystemFault: the kernel refused, or the directory is not there.
    """
    if not is_mounted(target, kind):
        mount(kind, target, kind, PSEUDO)


def mount_fuse(target: Path, subtype: str) -> int:
    """Mount a FUSE file system; return the descriptor on which its requests are to be answered, now.

    Any user may enter; the kernel checks the modes.

    Raises:
        SystemFault: no /dev/fuse, or the kernel refused.
    """
    try:
        descriptor = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise SystemFault(f"/dev/fuse: {error.strerror}", hint="modprobe fuse") from error
    options = f"fd={descriptor},rootmode=40755,user_id=0,group_id=0,allow_other,default_permissions"
    try:
        mount(SOURCE, target, f"fuse.{subtype}", PSEUDO, options)
    except SystemFault:
        os.close(descriptor)
        raise
    return descriptor


def cover(target: Path) -> int:
    """Mount an empty tmpfs over a directory; return a descriptor of what is underneath.

    Raises:
        SystemFault: the directory is not there, or the kernel refused.
    """
    try:
        below = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise SystemFault(f"{target}: {error.strerror}") from error
    try:
        mount(SOURCE, target, "tmpfs", PSEUDO, "mode=0755,size=16m")
    except SystemFault:
        os.close(below)
        raise
    return below


def make_read_only(target: Path) -> None:
    """Remount read-only."""
    mount(SOURCE, target, None, PSEUDO | MS_REMOUNT | MS_RDONLY)

"""Files of a host, read from the machine or from a captured tree (``--root DIR``).

A captured tree may come from a stranger's bug report: paths are resolved inside it, absolute symbolic links included,
and nothing but regular files is opened there. Every read is bounded.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from tdxstack.errors import SystemFault

#: The most that is read of one file.
LIMIT = 4 << 20
MAX_LINKS = 40


class HostReadError(SystemFault):
    """A file of the host that cannot be read. ``missing`` tells absence from refusal."""

    def __init__(self, path: str, reason: str, *, missing: bool = False, hint: str | None = None) -> None:
        super().__init__(f"{path}: {reason}", hint=hint)
        self.path = path
        self.reason = reason
        self.missing = missing


class HostFiles:
    """The files of a host under ``root`` (``/`` for this machine)."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root.absolute()

    @property
    def live(self) -> bool:
        return self.root == Path("/")

    def resolve(self, path: str) -> Path:
        """Where ``path`` (absolute, of the host) is on this machine, links followed inside the root.

        Raises:
            HostReadError: more than 40 links, or a path that cannot be looked up.
        """
        todo = _parts(path)[::-1]
        top = "" if self.live else str(self.root)
        here = top
        links = 0
        while todo:
            part = todo.pop()
            if part == "..":
                here = max(here.rpartition("/")[0], top, key=len)
                continue
            inner = f"{here}/{part}"
            try:
                target = os.readlink(inner)  # noqa: PTH115 - text is several times faster here
            except OSError as error:
                if error.errno == errno.ENAMETOOLONG:
                    raise HostReadError(path, "the path is too long") from error
                here = inner
                continue
            links += 1
            if links > MAX_LINKS:
                raise HostReadError(path, "too many symbolic links")
            if target.startswith("/"):
                here = top
            todo.extend(reversed(_parts(target)))
        return Path(here or "/")

    def exists(self, path: str) -> bool:
        try:
            return self.resolve(path).exists()
        except (OSError, HostReadError):
            return False

    def is_file(self, path: str) -> bool:
        try:
            return self.resolve(path).is_file()
        except (OSError, HostReadError):
            return False

    def read(self, path: str, *, limit: int = LIMIT) -> bytes:
        """The content of a regular file, at most ``limit`` bytes.

        Raises:
            HostReadError: absent, not a regular file, or not readable.
        """
        try:
            descriptor = os.open(self.resolve(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise _refused(path, error) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise HostReadError(path, "not a regular file")
        with os.fdopen(descriptor, "rb") as stream:
            try:
                return stream.read(limit)
            except OSError as error:
                raise _refused(path, error) from error

    def text(self, path: str, *, limit: int = LIMIT) -> str:
        """The content as text; what is not UTF-8 is kept as replacement characters."""
        return self.read(path, limit=limit).decode("utf-8", errors="replace")

    def text_or_none(self, path: str) -> str | None:
        """The stripped text, or None where the file is absent or not readable."""
        try:
            return self.text(path).strip()
        except HostReadError:
            return None

    def names(self, path: str) -> list[str]:
        """The names in a directory, sorted; empty where there is no such directory."""
        try:
            return sorted(os.listdir(self.resolve(path)))
        except (OSError, HostReadError):
            return []

    def owner(self, path: str) -> tuple[int, int, int] | None:
        """(uid, gid, permission bits) of a file, or None where it is absent."""
        try:
            found = self.resolve(path).stat()
        except (OSError, HostReadError):
            return None
        return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in {"", "."}]


def _refused(path: str, error: OSError) -> HostReadError:
    missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
    hint = "run as root" if error.errno in (errno.EACCES, errno.EPERM) else None
    return HostReadError(path, error.strerror or str(error), missing=missing, hint=hint)

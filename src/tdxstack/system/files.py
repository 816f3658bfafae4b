"""Files that are whole or absent: atomic writes, private directories, locks, digests."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tdxstack.errors import LockHeld, SystemFault


def write_atomic(path: Path, data: bytes | str, *, mode: int = 0o644) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part.

    The data is on disk when this returns (fsync of file and directory).

    Raises:
        SystemFault: no space, no permission; no temporary file is left behind.
    """
    payload = data.encode() if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(payload)
                stream.flush()
                os.fchmod(stream.fileno(), mode)
                os.fsync(stream.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)
    except OSError as error:
        raise SystemFault(f"cannot write {path}: {error.strerror or error}", hint=_hint(error, path)) from error


def write_cache(root: Path, name: str, data: bytes | str) -> None:
    """Keep under ``root`` what can be made again, as ``name``, which may have folders in it.

    Nothing is kept where ``root`` is absent: a dry run makes no directory.

    Raises:
        SystemFault: it cannot be written.
    """
    if root.is_dir():
        path = root / name
        private_directory(path.parent)
        write_atomic(path, data)


def _hint(error: OSError, path: Path) -> str | None:
    import errno

    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"free space on the file system of {path.parent} (df -h {path.parent})"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST):
        return f"check {path.parent} and its permissions, or set TDXSTACK_HOME to a directory of your own"
    return None


def sync_directory(path: Path) -> None:
    """Make renames and unlinks in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def private_directory(path: Path) -> Path:
    """Create a directory that only its owner may enter (0700), with its parents; return it.

    Raises:
        SystemFault: it cannot be made, or is something else.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SystemFault(f"cannot make {path}: {error.strerror}", hint=_hint(error, path)) from error
    return path


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def take_lock(path: Path, *, wait: bool = True, hint: str | None = None) -> int:
    """Take an exclusive lock on ``path`` (created if absent) and return its descriptor, which holds it.

    The lock lasts until every copy of the descriptor is closed, so it can be handed to a child process.

    Raises:
        LockHeld: another process holds it and ``wait`` is false.
        SystemFault: the lock file cannot be made.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SystemFault(f"cannot lock {path}: {error.strerror or error}", hint=_hint(error, path)) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        raise LockHeld(str(path), hint=hint) from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def locked(path: Path, *, wait: bool = True, hint: str | None = None) -> Iterator[None]:
    """Hold an exclusive lock on ``path`` (created if absent); the kernel frees it if we die.

    Raises:
        LockHeld: another process holds it and ``wait`` is false.
    """
    descriptor = take_lock(path, wait=wait, hint=hint)
    try:
        yield
    finally:
        os.close(descriptor)

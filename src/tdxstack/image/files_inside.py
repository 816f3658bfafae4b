"""Files in the root file system of a disk image that no machine uses: copied in and out without mounting anything.

ext2, ext3 and ext4, by ``debugfs``; the file system is checked afterwards.
"""

from __future__ import annotations

import re
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tdxstack.errors import PlatformMissing, SystemFault, UsageError
from tdxstack.image import debugfs
from tdxstack.image.disk_export import exported, root_partition
from tdxstack.image.ext_files import is_ext
from tdxstack.system.process import run
from tdxstack.wire.block import reader_of

#: Bytes that hold the superblock.
HEAD_SIZE = 2048
#: Status of e2fsck: no errors, errors corrected.
CHECKED = (0, 1)


@dataclass(frozen=True, slots=True)
class RootFiles:
    """The root file system of an image, while it is open. ``device`` is the partition as a file."""

    device: Path

    def exists(self, path: str) -> bool:
        """Whether there is anything at ``path``."""
        return self._mode(_guest_path(path)) is not None

    def is_directory(self, path: str) -> bool:
        mode = self._mode(_guest_path(path))
        return mode is not None and stat.S_ISDIR(mode)

    def read(self, path: str) -> bytes:
        """The content of a regular file.

        Raises:
            SystemFault: there is none.
        """
        data = debugfs.content(str(self.device), _guest_path(path))
        if data is None:
            raise SystemFault(f"{path}: no such file in the image", hint="give an absolute path of a file in it")
        return data

    def write(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Write a file of root's, in place of one that is there; directories are made as needed."""
        with tempfile.TemporaryDirectory(prefix="tdxstack-files-") as folder:
            source = Path(folder) / "file"
            source.write_bytes(data)
            self._put(source, _guest_path(path), mode)

    def make_directory(self, path: str, *, mode: int = 0o755) -> None:
        """Make a directory of root's, with those above it; one that is there is left as it is."""
        wanted = _guest_path(path)
        commands: list[str] = []
        for folder in reversed([wanted, *wanted.parents]):
            if str(folder) == "/" or self._mode(folder) is not None:
                continue
            bits = mode if folder == wanted else 0o755
            commands += [f"mkdir {debugfs.word(folder)}", f"sif {debugfs.word(folder)} mode 0{0o040000 | bits:o}"]
        self._do(commands)

    def copy_in(self, source: Path, target: str) -> None:
        """Copy a file or a directory; a ``target`` that is a directory, or ends in ``/``, takes it under its name.

        Raises:
            UsageError: there is no ``source``.
        """
        if not source.exists():
            raise UsageError(f"{source}: no such file or directory", hint="give a file or directory of this machine")
        place = _guest_path(target)
        if target.endswith("/") or self.is_directory(target):
            place = place / source.name
        if not source.is_dir():
            self._put(source, place, stat.S_IMODE(source.stat().st_mode))
            return
        if self._mode(place) is None:
            self.make_directory(str(place.parent))
            self._do(list(_new_tree(source, place)))
            return
        for entry in sorted(source.iterdir()):
            self.copy_in(entry, str(place / entry.name))

    def copy_out(self, source: str, target: Path) -> Path:
        """Copy a file or a directory out; returns where it is. A ``target`` that is a directory takes it in.

        Raises:
            SystemFault: there is no ``source`` in the image.
        """
        place = _guest_path(source)
        if self.is_directory(source):
            target.mkdir(parents=True, exist_ok=True)
            self._do([f"rdump {debugfs.word(place)} {debugfs.word(target)}"])
            return target / place.name
        if target.is_dir():
            target = target / place.name
        target.write_bytes(self.read(source))
        return target

    def _put(self, source: Path, place: PurePosixPath, mode: int) -> None:
        self.make_directory(str(place.parent))
        before = self._mode(place)
        if before is not None and stat.S_ISDIR(before):
            raise UsageError(f"{place} is a directory in the image", hint=f"write {place}/ to copy into it")
        commands = [f"rm {debugfs.word(place)}"] if before is not None else []
        self._do([*commands, *_new_file(source, place, mode)])

    def _mode(self, path: PurePosixPath) -> int | None:
        """``st_mode`` of what is there, or None."""
        said = debugfs.ask(str(self.device), f"stat {debugfs.word(path)}")
        found = re.search(r"Type: (\S+)\s+Mode:\s+([0-7]+)", said)
        if found is None:
            return None
        kinds = {"directory": stat.S_IFDIR, "symlink": stat.S_IFLNK, "regular": stat.S_IFREG}
        return kinds.get(found[1], 0) | int(found[2], 8)

    def _do(self, commands: Sequence[str]) -> None:
        if commands:
            debugfs.do(str(self.device), commands)


@contextmanager
def root_files(image: Path, *, writable: bool = False) -> Iterator[RootFiles]:
    """The files of an image's root file system. What was written is checked, and in the image, at the end.

    Raises:
        StateError: a machine uses the image.
        PlatformMissing: its root file system is none of ext2, ext3 and ext4.
        SystemFault: the image is damaged.
    """
    with exported(image, root_partition(image), writable=writable) as device:
        _require_ext(image, device)
        if writable:
            _check(image, device)
        yield RootFiles(device)
        if writable:
            _check(image, device, force=True)


def _require_ext(image: Path, device: Path) -> None:
    with device.open("rb") as stream:
        head = reader_of(stream.read(HEAD_SIZE))
    if not is_ext(head):
        raise PlatformMissing(
            f"{image}: its root file system is none of ext2, ext3 and ext4",
            hint="start the TD and copy with tdxctl td copy",
        )


def _check(image: Path, device: Path, *, force: bool = False) -> None:
    """Replay the journal that a machine which was killed has left, and mend what can be mended."""
    argv = ["e2fsck", "-p", *(["-f"] if force else []), str(device)]
    done = run(argv, timeout=debugfs.SECONDS, check=False)
    if done.returncode not in CHECKED:
        raise SystemFault(f"{image}: e2fsck: {done.text.strip()[-300:]}", hint="make the overlay anew")


def _new_file(source: Path, place: PurePosixPath, mode: int) -> Iterator[str]:
    """Commands that write a file of root's where there is none."""
    yield f"write {debugfs.word(source.absolute())} {debugfs.word(place)}"
    yield from debugfs.set_fields(place, mode=stat.S_IFREG | mode)


def _new_tree(source: Path, place: PurePosixPath) -> Iterator[str]:
    """Commands that make a directory with all that is below ``source``, where there is nothing."""
    yield f"mkdir {debugfs.word(place)}"
    for entry in sorted(source.iterdir()):
        if entry.is_dir():
            yield from _new_tree(entry, place / entry.name)
        else:
            yield from _new_file(entry, place / entry.name, stat.S_IMODE(entry.stat().st_mode))


def _guest_path(path: str) -> PurePosixPath:
    place = PurePosixPath(path)
    if not place.is_absolute() or ".." in place.parts:
        raise UsageError(f"{path!r} is not an absolute path", hint="e.g. /root/")
    return place

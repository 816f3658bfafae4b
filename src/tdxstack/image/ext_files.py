"""Files of an ext2, ext3 or ext4 file system inside a raw disk, by ``debugfs``: no mount, no loop device, no root."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from tdxstack.errors import SystemFault
from tdxstack.image import debugfs
from tdxstack.image.mkosi_config import SOURCE_DATE_EPOCH
from tdxstack.system.process import run
from tdxstack.wire.block import ReadAt

#: s_magic and s_feature_incompat of the superblock, which starts at 1024; RECOVER: the journal has work to do.
_MAGIC_AT, _MAGIC = 1024 + 56, b"\x53\xef"
_INCOMPATIBLE_AT, _RECOVER = 1024 + 96, 0x4
_REGULAR = 0o100000
_TYPE_MASK = 0o170000


@dataclass(frozen=True, slots=True)
class _Entry:
    mode: int
    uid: int
    gid: int


def is_ext(read: ReadAt) -> bool:
    """Whether a partition holds an ext2, ext3 or ext4 file system."""
    return read(_MAGIC_AT, 2) == _MAGIC


def listing(disk: Path, offset: int, folder: str) -> list[str]:
    """Names of the regular files in a directory; none if there is no such directory."""
    return sorted(_entries(disk, offset, folder))


def read(disk: Path, offset: int, path: str) -> bytes:
    """A file's content.

    Raises:
        SystemFault: debugfs cannot read it.
    """
    data = debugfs.content(debugfs.device(disk, offset), path)
    if data is None:
        raise SystemFault(f"{disk}: {path} cannot be read", hint="e2fsck the file system first")
    return data


def replace(disk: Path, offset: int, path: str, data: bytes) -> None:
    """Put ``data`` in the place of a file; owner and mode stay.

    Raises:
        SystemFault: no room, a file system that was not unmounted cleanly, or one that is damaged afterwards.
    """
    _check(disk, offset, "before")
    folder, _, name = path.rpartition("/")
    before = _entries(disk, offset, folder or "/")[name]
    with tempfile.TemporaryDirectory(prefix="tdxstack-ext-") as scratch:
        source = Path(scratch) / "file"
        source.write_bytes(data)
        # At a time of its own, so that the same file leaves the same bytes.
        commands = [f"set_current_time @{SOURCE_DATE_EPOCH}", f"cd {debugfs.word(folder or '/')}"]
        commands += [f"rm {debugfs.word(name)}", f"write {debugfs.word(source)} {debugfs.word(name)}"]
        commands += debugfs.set_fields(name, mode=before.mode, uid=before.uid, gid=before.gid)
        debugfs.do(debugfs.device(disk, offset), commands)
    if read(disk, offset, path) != data:
        raise SystemFault(f"{disk}: {path} was not written", hint="has the file system room? (debugfs -R stats)")
    if _entries(disk, offset, folder or "/")[name] != before:
        raise SystemFault(f"{disk}: owner or mode of {path} changed")
    _check(disk, offset, "after")


def _check(disk: Path, offset: int, when: str) -> None:
    """Have the file system checked, changing nothing."""
    with disk.open("rb") as stream:
        stream.seek(offset + _INCOMPATIBLE_AT)
        if int.from_bytes(stream.read(4), "little") & _RECOVER:
            hint = "boot the guest once and shut it down cleanly"
            raise SystemFault(f"{disk}: the file system at {offset} was not unmounted cleanly", hint=hint)
    argv = ["e2fsck", "-f", "-n", debugfs.device(disk, offset)]
    done = run(argv, timeout=debugfs.SECONDS, check=False)
    if done.returncode != 0:
        said = (done.text.strip().splitlines() or ["no reason given"])[-1]
        hint = "boot the guest once and shut it down cleanly" if when == "before" else "the original is untouched"
        raise SystemFault(f"{disk}: the file system at {offset} is not clean {when} the change: {said}", hint=hint)


def _entries(disk: Path, offset: int, folder: str) -> dict[str, _Entry]:
    """Regular files of a directory, as ``ls -p`` lists them: /inode/mode/uid/gid/name/size/."""
    said = debugfs.ask(debugfs.device(disk, offset), f"ls -p {debugfs.word(folder)}")
    found: dict[str, _Entry] = {}
    for line in said.splitlines():
        parts = line.split("/")
        if len(parts) == 8 and parts[2].isdigit() and int(parts[2], 8) & _TYPE_MASK == _REGULAR:
            found[parts[5]] = _Entry(int(parts[2], 8), int(parts[3]), int(parts[4]))
    return found

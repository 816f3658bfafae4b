"""Commands of ``debugfs`` (e2fsprogs) on an ext2, ext3 or ext4 file system: no mount, no loop device, no root.

``debugfs`` ends with 0 whatever it ran into, so what it says is read.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from tdxstack.errors import SystemFault, UsageError
from tdxstack.system.process import run

SECONDS = 600.0
#: What debugfs says beside errors.
_TALK = re.compile(r"debugfs |Allocated inode|$")


def device(disk: Path, offset: int = 0) -> str:
    """A file system in a file, at a byte offset."""
    return f"{disk}?offset={offset}" if offset else str(disk)


def word(path: PurePosixPath | Path | str) -> str:
    """A path as a word of a command.

    Raises:
        UsageError: a path that no command can name.
    """
    text = str(path)
    if not text.isprintable() or '"' in text:
        raise UsageError(f"{text!r}: a path with quotes or control characters", hint="take another name")
    return f'"{text}"'


def ask(where: str, command: str) -> str:
    """What one command prints."""
    return run(["debugfs", "-R", command, where], timeout=SECONDS).text


def do(where: str, commands: Iterable[str]) -> None:
    """Carry out commands that change the file system, one after the other.

    Raises:
        SystemFault: one of them failed.
    """
    with tempfile.NamedTemporaryFile("w", prefix="tdxstack-debugfs-") as script:
        script.write("\n".join(commands) + "\n")
        script.flush()
        done = run(["debugfs", "-w", "-f", script.name, where], timeout=SECONDS)
    faults = [line for line in done.stderr.decode(errors="replace").splitlines() if not _TALK.match(line)]
    if faults:
        raise SystemFault(f"in the image: {faults[0].strip()}", hint="check the path, and the space in the image")


def content(where: str, path: PurePosixPath | str) -> bytes | None:
    """A regular file's content; None where there is none."""
    with tempfile.TemporaryDirectory(prefix="tdxstack-debugfs-") as folder:
        target = Path(folder) / "file"
        ask(where, f"dump {word(path)} {word(target)}")
        return target.read_bytes() if target.exists() else None


def set_fields(path: PurePosixPath | str, *, mode: int, uid: int = 0, gid: int = 0) -> list[str]:
    """Commands that set type with mode, and the owner, of what is at ``path``."""
    fields = (("mode", f"0{mode:o}"), ("uid", str(uid)), ("gid", str(gid)))
    return [f"sif {word(path)} {field} {value}" for field, value in fields]

"""Steps of an installation: a file to write or a command to run, each with its reason; and carrying them out.

Before a file is changed it is copied under ``/var/lib/tdxstack/backup``; what was done is in ``install.json`` there,
so that it can be undone and done again.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tdxstack.errors import SystemFault
from tdxstack.system import process
from tdxstack.system.files import write_atomic

STATE = "var/lib/tdxstack"
RECORD = "install.json"
COMMAND_TIMEOUT = 3600.0


@dataclass(frozen=True, slots=True)
class FileStep:
    """Write ``content`` to ``path`` (of the host, absolute)."""

    group: str
    path: str
    content: str
    why: str
    mode: int = 0o644

    def text(self, root: Path) -> str:
        """The change as a unified diff."""
        target = root / self.path.lstrip("/")
        old = _text(target).splitlines(keepends=True)
        diff = difflib.unified_diff(old, self.content.splitlines(keepends=True), self.path, self.path, n=1)
        return f"write {self.path}: {self.why}\n" + "".join(f"    {line}" for line in diff).rstrip("\n")


@dataclass(frozen=True, slots=True)
class CommandStep:
    """Run a program; ``undo`` is what takes it back, empty where nothing does."""

    group: str
    argv: tuple[str, ...]
    why: str
    undo: tuple[str, ...] = ()

    def text(self, root: Path) -> str:
        return f"run {' '.join(self.argv)}: {self.why}"


Step = FileStep | CommandStep
Run = Callable[[Sequence[str]], None]


def run_program(argv: Sequence[str]) -> None:
    """Run a program of an installation on this machine."""
    process.run(argv, timeout=COMMAND_TIMEOUT)


def _text(path: Path) -> str:
    """A regular file's text, empty where there is none; a FIFO or device is not waited for."""
    try:
        return path.read_text(errors="replace") if path.is_file() else ""
    except OSError:
        return ""


class Journal:
    """What was done to a root, on disk before the next step begins."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.directory = root / STATE
        self.record: dict[str, Any] = {"files": {}, "undo": [], "directories": []}
        try:
            value = json.loads((self.directory / RECORD).read_text())
            made = list(value.get("directories", []))
            self.record = {"files": dict(value["files"]), "undo": list(value["undo"]), "directories": made}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SystemFault(f"{self.directory / RECORD}: {error}", hint="move it away to begin anew") from error

    def save(self) -> None:
        self.make_directory(self.directory)
        write_atomic(self.directory / RECORD, json.dumps(self.record, indent=2) + "\n", mode=0o600)

    def make_directory(self, path: Path) -> None:
        """Make a directory of the root with its parents, and note those that were not there."""
        absent = [one for one in (path, *path.parents) if one.is_relative_to(self.root) and not one.exists()]
        path.mkdir(parents=True, exist_ok=True)
        self.record["directories"] += [str(one.relative_to(self.root)) for one in reversed(absent)]

    def remove_directories(self) -> None:
        """Remove what :meth:`make_directory` made, where nobody put anything since."""
        for name in reversed(self.record["directories"]):
            with contextlib.suppress(OSError):
                (self.root / name).rmdir()

    def keep(self, path: str) -> None:
        """Copy a file aside before its first change."""
        if path in self.record["files"]:
            return
        target = self.root / path.lstrip("/")
        backup = None
        if target.is_file():
            backup = f"backup/{hashlib.sha256(path.encode()).hexdigest()[:16]}"
            self.make_directory(self.directory / "backup")
            write_atomic(self.directory / backup, target.read_bytes(), mode=target.stat().st_mode & 0o777)
        self.record["files"][path] = {"backup": backup, "written": None}
        self.save()


def apply(root: Path, steps: Sequence[Step], run: Run, say: Callable[[str], None]) -> None:
    """Carry out the steps in order. What is done already stays recorded if a later one fails.

    Raises:
        SystemFault: a file cannot be written, a program failed.
    """
    journal = Journal(root)
    for step in steps:
        if isinstance(step, FileStep):
            say(f"write {step.path}")
            journal.keep(step.path)
            target = root / step.path.lstrip("/")
            journal.make_directory(target.parent)
            write_atomic(target, step.content, mode=step.mode)
            journal.record["files"][step.path]["written"] = hashlib.sha256(step.content.encode()).hexdigest()
        else:
            say(f"run {' '.join(step.argv)}")
            run(step.argv)
            if step.undo and list(step.undo) not in journal.record["undo"]:
                journal.record["undo"].append(list(step.undo))
        journal.save()


@dataclass(frozen=True, slots=True)
class Undo:
    """One thing to put back. ``kept`` says that a file was changed by somebody else since, and is left alone."""

    text: str
    path: str = ""
    backup: str | None = None
    argv: tuple[str, ...] = ()
    kept: bool = False


def undo_plan(root: Path) -> list[Undo]:
    """How to put everything back, last done first; empty where nothing was installed."""
    journal = Journal(root)
    plan = []
    for path, entry in reversed(journal.record["files"].items()):
        target = root / path.lstrip("/")
        written = entry.get("written")
        changed = target.is_file() and written is not None and _digest(target) != written
        if changed:
            plan.append(Undo(f"keep {path}: it was changed since", path, kept=True))
        elif entry.get("backup"):
            plan.append(Undo(f"restore {path}", path, str(entry["backup"])))
        else:
            plan.append(Undo(f"remove {path}", path))
    plan.extend(Undo(f"run {' '.join(argv)}", argv=tuple(argv)) for argv in reversed(journal.record["undo"]))
    return plan


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def undo(root: Path, plan: Sequence[Undo], run: Run, say: Callable[[str], None]) -> None:
    """Put everything back and forget the record."""
    journal = Journal(root)
    for one in plan:
        say(one.text)
        target = root / one.path.lstrip("/")
        if one.argv:
            run(one.argv)
        elif one.backup:
            data = journal.directory / one.backup
            write_atomic(target, data.read_bytes(), mode=data.stat().st_mode & 0o777)
        elif not one.kept:
            target.unlink(missing_ok=True)
    for backup in (journal.directory / "backup").glob("*"):
        backup.unlink()
    (journal.directory / RECORD).unlink(missing_ok=True)
    journal.remove_directories()

"""A tree of files as a value: made in memory, hashed, then written at once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class File:
    """A regular file's content and permission bits."""

    data: bytes
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link."""

    target: str


#: Relative POSIX path -> what is there. Directories follow from the paths.
Tree = Mapping[str, File | Link]


def text(content: str, mode: int = 0o644) -> File:
    """A text file."""
    return File(content.encode(), mode)


def read_tree(folder: Path, prefix: str = "") -> dict[str, File | Link]:
    """Every file and link below ``folder``, with ``prefix`` before its relative path.

    Permission bits become 0755 where the owner may execute, else 0644, so that a checkout's umask does not matter.
    """
    tree: dict[str, File | Link] = {}
    for path in sorted(folder.rglob("*")):
        name = prefix + path.relative_to(folder).as_posix()
        if path.is_symlink():
            tree[name] = Link(str(path.readlink()))
        elif path.is_file():
            tree[name] = File(path.read_bytes(), 0o755 if path.stat().st_mode & 0o100 else 0o644)
    return tree


def write_tree(folder: Path, tree: Tree) -> None:
    """Write ``tree`` below ``folder``, which must be the caller's own new directory."""
    for name, entry in tree.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(entry, Link):
            path.symlink_to(entry.target)
        else:
            path.write_bytes(entry.data)
            path.chmod(entry.mode)


def tree_digest(tree: Tree) -> str:
    """SHA-256 over names, kinds, modes and contents, in hex; independent of the order of insertion."""
    total = hashlib.sha256()
    for name in sorted(tree):
        entry = tree[name]
        body = f"link {entry.target}".encode() if isinstance(entry, Link) else b"file %o " % entry.mode + entry.data
        total.update(b"%d %s %d " % (len(name.encode()), name.encode(), len(body)))
        total.update(body)
    return total.hexdigest()

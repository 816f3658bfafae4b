"""Processes of this machine, told by their arguments (proc(5))."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path


def find_by_arguments(flag: str, value: str, proc: Path = Path("/proc")) -> int | None:
    """The process that has ``flag value`` among its arguments, or None."""
    wanted = (flag.encode(), value.encode())
    for entry in proc.glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if wanted in pairwise(words):
            return int(entry.parent.name)
    return None

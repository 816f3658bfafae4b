"""Hands a disk out to the user as a file."""

from __future__ import annotations

import os
from pathlib import Path

from tdxstack.errors import UsageError
from tdxstack.system.process import run


def export_disk(disk: Path, target: Path) -> None:
    """Write a raw disk to ``target``, as qcow2 if that is its suffix, else raw and sparse; whole or not at all.

    Raises:
        UsageError: the target's directory does not exist.
        ProcessFailed: qemu-img could not write it.
    """
    if not target.parent.is_dir():
        raise UsageError(f"no directory {target.parent}", hint=f"mkdir -p {target.parent}")
    shape = "qcow2" if target.suffix == ".qcow2" else "raw"
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        run(["qemu-img", "convert", "-q", "-f", "raw", "-O", shape, str(disk), str(partial)], timeout=1800)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)

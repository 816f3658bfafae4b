"""Disk images: their format, and the overlay that takes a TD's writes."""

from __future__ import annotations

from pathlib import Path

from tdxstack.errors import SystemFault
from tdxstack.system.process import run

QCOW2_MAGIC = b"QFI\xfb"
QEMU_IMG_TIMEOUT = 120.0


def image_format(path: Path) -> str:
    """``qcow2`` or ``raw``, told by the first bytes."""
    try:
        with path.open("rb") as stream:
            return "qcow2" if stream.read(4) == QCOW2_MAGIC else "raw"
    except OSError as error:
        raise SystemFault(f"cannot read {path}: {error.strerror}", hint="tdxctl image list") from error


def make_overlay(image: Path, overlay: Path) -> None:
    """Create ``overlay`` over ``image``, whole or not at all.

    Raises:
        ProcessFailed: qemu-img refused, e.g. for want of space.
    """
    unfinished = overlay.with_name(f".{overlay.name}.new")
    backing = str(image.resolve())
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", backing, "-F", image_format(image), str(unfinished)]
    try:
        run(argv, timeout=QEMU_IMG_TIMEOUT)
        unfinished.replace(overlay)
    except OSError as error:
        raise SystemFault(f"cannot make {overlay}: {error.strerror}", hint=f"df -h {overlay.parent}") from error
    finally:
        unfinished.unlink(missing_ok=True)

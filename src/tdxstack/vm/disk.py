"""Disk images: their format, and the overlay that takes a TD's writes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tdxstack.errors import ProcessFailed, SystemFault, WireError
from tdxstack.system.process import run
from tdxstack.wire.block import ReadAt
from tdxstack.wire.qcow2 import Qcow2

QCOW2_MAGIC = b"QFI\xfb"
QEMU_IMG_TIMEOUT = 120.0
COPY_TIMEOUT = 3600.0
MAX_CHAIN = 16
UNREADABLE = "Could not open backing"


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
        SystemFault: the image is damaged, or another process writes to it.
        ProcessFailed: qemu-img refused, e.g. for want of space.
    """
    unfinished = overlay.with_name(f".{overlay.name}.new")
    backing = str(image.resolve())
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", backing, "-F", image_format(image), str(unfinished)]
    try:
        run(argv, timeout=QEMU_IMG_TIMEOUT)
        unfinished.replace(overlay)
    except ProcessFailed as error:
        if UNREADABLE not in error.output:
            raise
        why = error.output.partition("qemu-img: ")[2].partition("\n")[0].replace(f"{unfinished}: ", "")
        raise SystemFault(f"{image} cannot be used: {why}", hint=f"qemu-img check {image}") from error
    except OSError as error:
        raise SystemFault(f"cannot make {overlay}: {error.strerror}", hint=f"df -h {overlay.parent}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def copy(source: Path, target: Path) -> None:
    """Copy a large file, sparse, sharing blocks where the file system can.

    Raises:
        ProcessFailed: no space.
    """
    run(["cp", "--reflink=auto", "--sparse=always", "--", str(source), str(target)], timeout=COPY_TIMEOUT)


@contextmanager
def opened(path: Path) -> Iterator[ReadAt]:
    """A reader of a raw or qcow2 image's content, backing files included. It takes no lock.

    Raises:
        SystemFault: a file cannot be read.
        WireError: a damaged qcow2 image.
    """
    with ExitStack() as files:
        yield _reader(path, files, MAX_CHAIN)


def _reader(path: Path, files: ExitStack, depth: int) -> ReadAt:
    if depth == 0:
        raise WireError("qcow2", "backing_file", 8, f"a chain of more than {MAX_CHAIN} images")
    kind = image_format(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    files.callback(os.close, descriptor)

    def read_file(offset: int, length: int) -> bytes:
        # What a damaged image asks for beyond any file's end is not there.
        return os.pread(descriptor, length, offset) if 0 <= offset < 1 << 62 else b""

    if kind == "raw":
        return read_file
    image = Qcow2(read_file)
    if image.backing_name is not None:
        image.backing = _reader(path.parent / image.backing_name.removeprefix("file:"), files, depth - 1)
    return image.read

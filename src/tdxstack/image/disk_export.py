"""A disk image of any format, or one of its partitions, as a plain file, without mounts.

``qemu-storage-daemon`` offers the image through FUSE. It takes QEMU's locks on the image, so that one that a running
machine uses is refused, and writes through to qcow2 overlays like the machine itself would.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from tdxstack.errors import PlatformMissing, StateError, SystemFault, WireError
from tdxstack.system.process import Child, ChildTimeout, spawn
from tdxstack.vm.disk import image_format
from tdxstack.wire.block import SECTOR
from tdxstack.wire.gpt import Gpt, Partition

FUSE = Path("/dev/fuse")
#: Root partition of x86-64 (Discoverable Partitions Specification).
LINUX_ROOT = UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")
START_TIMEOUT = 20.0
END_TIMEOUT = 60.0
INTERVAL = 0.02


@contextmanager
def exported(image: Path, partition: Partition | None = None, *, writable: bool = False) -> Iterator[Path]:
    """The content of ``image`` (or of its ``partition``) as a file that lives as long as the context.

    Raises:
        StateError: a machine uses the image.
        PlatformMissing: this machine has no FUSE.
        SystemFault: the image cannot be opened.
    """
    if not FUSE.exists():
        raise PlatformMissing(f"{FUSE} is absent: no access to files in images", hint="modprobe fuse")
    with tempfile.TemporaryDirectory(prefix="tdxstack-disk-") as folder:
        target, log = Path(folder) / "disk", Path(folder) / "log"
        target.touch(mode=0o600)
        with log.open("wb") as stream:
            daemon = spawn(_argv(image, partition, target, writable=writable), stderr=stream)
        try:
            _await_export(daemon, image, target, log)
            yield target
        finally:
            _end(daemon)


def partitions(image: Path) -> Gpt:
    """The partition table of an image.

    Raises:
        SystemFault: it has none.
    """
    with exported(image) as disk, disk.open("rb") as stream:

        def read(offset: int, size: int) -> bytes:
            return os.pread(stream.fileno(), size, offset)

        try:
            return Gpt.from_disk(read)
        except WireError as error:
            raise SystemFault(f"{image}: {error}", hint="give a whole disk with a GUID partition table") from error


def root_partition(image: Path) -> Partition:
    """The partition of the root file system: by type, else by the name ``root``, else the largest.

    Raises:
        SystemFault: the disk has no partitions.
    """
    found = partitions(image).partitions
    if not found:
        raise SystemFault(f"{image} has no partitions", hint="give a whole disk with a root file system")
    by_type = [one for one in found if one.type_guid == LINUX_ROOT]
    by_name = [one for one in found if one.name == "root"]
    return (by_type or by_name or [max(found, key=lambda one: one.length)])[0]


def _argv(image: Path, partition: Partition | None, target: Path, *, writable: bool) -> list[str]:
    file: dict[str, Any] = {"driver": "file", "filename": str(image)}
    node: dict[str, Any] = {"driver": image_format(image), "node-name": "disk", "file": file}
    nodes = [{**node, "read-only": not writable}]
    name = "disk"
    if partition is not None:
        part = {"driver": "raw", "node-name": "part", "file": "disk", "offset": partition.first_lba * SECTOR}
        nodes.append({**part, "size": partition.length, "read-only": not writable})
        name = "part"
    export = {"type": "fuse", "id": "out", "node-name": name, "mountpoint": str(target), "writable": writable}
    words = [word for one in nodes for word in ("--blockdev", json.dumps(one))]
    return ["qemu-storage-daemon", *words, "--export", json.dumps(export)]


def _await_export(daemon: Child, image: Path, target: Path, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while target.stat().st_size == 0:
        if daemon.poll() is not None:
            said = log.read_text(errors="replace").strip().splitlines()
            reason = said[-1] if said else f"status {daemon.returncode}"
            if "another process" in reason:
                raise StateError(
                    f"image {image}", "reach its files", "in use by a machine", "no machine that uses it",
                    hint="stop the TD that uses it, or copy with tdxctl td copy",
                )  # fmt: skip
            raise SystemFault(f"{image}: {reason}", hint="tdxctl image list")
        if time.monotonic() > deadline:
            raise SystemFault(f"{image}: no export within {START_TIMEOUT:g} s", hint=f"ls -l {FUSE}")
        time.sleep(INTERVAL)


def _end(daemon: Child) -> None:
    """SIGTERM has it write everything out and unmount."""
    daemon.terminate()
    try:
        daemon.wait(END_TIMEOUT)
    except ChildTimeout:
        daemon.kill()
        daemon.wait()

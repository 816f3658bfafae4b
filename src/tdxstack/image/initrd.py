"""The guest's initrd: a newc cpio archive of busybox, a few kernel modules and a shell script.

It is uncompressed: two megabytes, which firmware measures and the kernel unpacks faster than it would decompress one.

This file stands alone (standard library only), since mkosi runs it as a program while it builds an image:
``initrd.py ROOT BUSYBOX INIT OUTPUT FIRST SECOND``, with comma-separated module names.

Format: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst, magic 070701.
"""

from __future__ import annotations

import lzma
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

BLOCK = 512


def cpio_record(
    name: str, mode: int, data: bytes = b"", *, inode: int = 0, device: tuple[int, int] = (0, 0)
) -> bytes:
    """One member of a newc archive, padded to four bytes; owner root, time 0."""
    encoded = name.encode() + b"\0"
    numbers = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(encoded), 0)
    record = b"070701" + b"".join(b"%08X" % number for number in numbers) + encoded
    record += bytes(-len(record) % 4) + data
    return record + bytes(-len(record) % 4)


def cpio_archive(members: Sequence[tuple[str, int, bytes]]) -> bytes:
    """A whole archive of (path, mode with type, content), in the given order, with /dev/console in front."""
    records = [
        cpio_record("dev", stat.S_IFDIR | 0o755, inode=1),
        cpio_record("dev/console", stat.S_IFCHR | 0o600, inode=2, device=(5, 1)),
    ]
    records += [cpio_record(name, mode, data, inode=3 + i) for i, (name, mode, data) in enumerate(members)]
    records.append(cpio_record("TRAILER!!!", 0))
    archive = b"".join(records)
    return archive + bytes(-len(archive) % BLOCK)


def module_order(dependencies: str, wanted: Sequence[str]) -> list[str]:
    """Paths of modules, each after what it needs, from the text of ``modules.dep``.

    A module that is not listed is built into the kernel, or absent: it is left out.
    """
    needs: dict[str, list[str]] = {}
    paths: dict[str, str] = {}
    for line in dependencies.splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
        paths[_module_name(path)] = path
    order: list[str] = []
    for name in wanted:
        path = paths.get(name.replace("-", "_"), "")
        # modules.dep lists what is needed nearest first
        chain = [*reversed(needs[path]), path] if path else []
        order += [item for item in chain if item not in order]
    return order


def _module_name(path: str) -> str:
    return Path(path).name.split(".")[0].replace("-", "_")


def _module_content(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".zst":
        sys.exit(f"{path.name} is compressed with zstd: leave it out of the recipe's initrd modules, or build it in")
    return lzma.decompress(data) if path.suffix == ".xz" else data


def build_initrd(modules: Path, busybox: bytes, init: bytes, first: Sequence[str], second: Sequence[str]) -> bytes:
    """The archive, from a kernel's directory ``/usr/lib/modules/VERSION``; the same input gives the same bytes."""
    dependencies = (modules / "modules.dep").read_text()
    directory, executable, plain = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o755, stat.S_IFREG | 0o644
    members = [(name, directory, b"") for name in ("bin", "modules", "proc", "root", "sys")]
    members += [("init", executable, init), ("bin/busybox", executable, busybox)]
    early = module_order(dependencies, first)
    late = [path for path in module_order(dependencies, second) if path not in early]
    for listing, paths in (("first", early), ("second", late)):
        names = [f"{_module_name(path)}.ko" for path in paths]
        members.append((f"modules/{listing}", plain, "".join(f"{name}\n" for name in names).encode()))
        members += [(f"modules/{n}", plain, _module_content(modules / p)) for n, p in zip(names, paths, strict=True)]
    return cpio_archive(members)


def main(arguments: Sequence[str]) -> None:
    """Write the initrd of the image tree ROOT to OUTPUT."""
    root, busybox, init, output, first, second = arguments
    kernels = sorted((Path(root) / "usr/lib/modules").iterdir())
    if len(kernels) != 1:
        sys.exit(f"expected one kernel in the image, found {[kernel.name for kernel in kernels]}")
    archive = build_initrd(
        kernels[0],
        Path(busybox).read_bytes(),
        Path(init).read_bytes(),
        [name for name in first.split(",") if name],
        [name for name in second.split(",") if name],
    )
    Path(output).write_bytes(archive)


if __name__ == "__main__":
    main(sys.argv[1:])

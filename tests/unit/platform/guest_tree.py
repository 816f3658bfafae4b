"""A tree of plain files that stands for a TD's kernel interfaces."""

from __future__ import annotations

from pathlib import Path

from tdxstack.platform.linux_guest import GuestPaths


def guest_tree(root: Path) -> GuestPaths:
    """CCEL, registers, IMA list and the mark of a software platform; no device, no configfs."""
    paths = GuestPaths(root)
    write(paths.tables / "CCEL", b"table")
    write(paths.tables / "data" / "CCEL", b"log")
    for index in range(4):
        write(paths.measurements[1] / f"rtmr{index}:sha384", bytes([index]) * 48)
    write(paths.measurements[1] / "mrtd:sha384", b"m" * 48)
    write(paths.ima / "ascii_runtime_measurements", b"10 aa ima-ng\n")
    write(paths.ima / "binary_runtime_measurements", b"\x0a\0\0\0")
    write(root / "sys/class/virtio-ports/vport0p1/name", b"org.tdxstack.tdx.0\n")
    return paths


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)

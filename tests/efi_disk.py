"""Small GPT disks for tests: an EFI system partition (FAT, made by mtools) and an ext4 one (made by mke2fs)."""

from __future__ import annotations

import struct
import subprocess
import zlib
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

from tdxstack.wire.gpt import ESP_TYPE

MIB = 1 << 20
ROOT_TYPE = UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")
DISK_GUID = UUID("6a3cbf8e-7d0b-4c5e-9d0a-0f8f4d1b5c11")
ESP_START, ESP_SIZE, ROOT_SIZE = MIB, 96 * MIB, 48 * MIB
ROOT_START = ESP_START + ESP_SIZE


def make(disk: Path, esp: Mapping[str, bytes], root: Mapping[str, bytes] | None = None) -> Path:
    """Write a raw disk with these files; paths are relative to the file system."""
    size = ROOT_START + (ROOT_SIZE if root is not None else 0) + MIB
    parts = [(ESP_TYPE, ESP_START, ESP_SIZE, "esp")]
    parts += [(ROOT_TYPE, ROOT_START, ROOT_SIZE, "root")] if root is not None else []
    with disk.open("wb") as stream:
        stream.truncate(size)
        # the protective MBR, without which firmware looks at no GPT: one partition of type 0xEE
        stream.write(bytes(446) + struct.pack("<8sII", b"\0\0\2\0\xee\xff\xff\xff", 1, size // 512 - 1))
        stream.write(bytes(48) + b"\x55\xaa")
        stream.write(_table(parts, size // 512))
    files = disk.with_name(f"{disk.name}.files")
    _write_tree(files / "esp", esp)
    image = ["-i", f"{disk}@@{ESP_START}"]
    _run(["mformat", *image, "-T", str(ESP_SIZE // 512), "-c", "8", "::"])
    _run(["mcopy", "-s", *image, *map(str, sorted((files / "esp").iterdir())), "::"])
    if root is not None:
        _write_tree(files / "root", root)
        extent = ["-d", str(files / "root"), "-E", f"offset={ROOT_START},root_owner=0:0"]
        _run(["mke2fs", "-q", "-F", "-t", "ext4", *extent, str(disk), f"{ROOT_SIZE >> 10}k"])
    return disk


def _write_tree(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _run(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, (argv, done.stderr)


def _table(parts: list[tuple[UUID, int, int, str]], sectors: int) -> bytes:
    """The primary header's sector and the table of 128 entries behind it."""
    entries = b""
    for number, (kind, start, size, name) in enumerate(parts, 1):
        first, last = start // 512, (start + size) // 512 - 1
        guid = UUID(int=number).bytes_le
        entries += struct.pack("<16s16sQQQ72s", kind.bytes_le, guid, first, last, 0, name.encode("utf-16-le"))
    entries = entries.ljust(128 * 128, b"\0")
    fields = (1, sectors - 1, 34, sectors - 34, DISK_GUID.bytes_le, 2, 128, 128, zlib.crc32(entries))
    header = struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, 0, 0, *fields)
    header = header[:16] + struct.pack("<I", zlib.crc32(header)) + header[20:]
    return header.ljust(512, b"\0") + entries

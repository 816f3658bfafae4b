"""A disk image with a GPT and an EFI system partition, made by mtools: no root, no mounts."""

from __future__ import annotations

import struct
import subprocess
import zlib
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

from tdxstack.wire.gpt import ESP_TYPE

_FIRST, _SECTORS = 2048, 16 * 2048
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")


def boot_disk_file(folder: Path, files: Mapping[str, bytes]) -> Path:
    """A raw disk in ``folder`` whose ESP (16 MiB, FAT16) has these files, by path with ``/``."""
    volume, source, disk = folder / "esp", folder / "content", folder / "disk.raw"
    _mtools("mformat", volume, "-C", "-T", str(_SECTORS), "-h", "16", "-s", "63", "::")
    made: set[str] = set()
    for path, content in files.items():
        parts = path.split("/")
        for depth in range(1, len(parts)):
            if (directory := "/".join(parts[:depth])) not in made:
                made.add(directory)
                _mtools("mmd", volume, f"::{directory}")
        source.write_bytes(content)
        _mtools("mcopy", volume, str(source), f"::{path}")
    with disk.open("wb") as stream:
        stream.truncate((_FIRST + _SECTORS + 2048) * 512)
        stream.seek(512)
        stream.write(_table())
        stream.seek(_FIRST * 512)
        stream.write(volume.read_bytes())
    return disk


def _mtools(program: str, volume: Path, *words: str) -> None:
    subprocess.run([program, "-i", str(volume), *words], check=True, capture_output=True)


def _table() -> bytes:
    name = "esp".encode("utf-16-le")
    entry = struct.pack("<16s16sQQQ72s", ESP_TYPE.bytes_le, bytes([7] * 16), _FIRST, _FIRST + _SECTORS - 1, 0, name)
    entries = entry.ljust(128 * 128, b"\0")
    fields = [b"EFI PART", 0x10000, 92, 0, 0, 1, _FIRST + _SECTORS, 34, _FIRST + _SECTORS - 1]
    fields += [UUID(int=1).bytes_le, 2, 128, 128, zlib.crc32(entries)]
    fields[3] = zlib.crc32(_HEADER.pack(*fields))
    return _HEADER.pack(*fields).ljust(512, b"\0") + entries

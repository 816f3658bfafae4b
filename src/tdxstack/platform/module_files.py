"""TDX modules as files: a blob, a module with its signature structure beside it, or a directory of releases."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tdxstack.errors import SystemFault, UsageError
from tdxstack.platform.module_rules import Release, Version, parse_version, read_mapping
from tdxstack.wire.seam import BlobVersion, SeamSigstruct, TdxBlob

MAX_FILE = 8 << 20
MAPPING = "mapping_file.json"
MAX_FILES = 4096


@dataclass(frozen=True, slots=True)
class ModuleFile:
    """A module with where it came from, its version by its name (None: the name tells none), and its release."""

    path: Path
    blob: TdxBlob
    version: Version | None
    release: Release | None


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_FILE:
            raise UsageError(f"{path}: larger than {MAX_FILE >> 20} MiB: no TDX module")
        return path.read_bytes()
    except OSError as error:
        raise SystemFault(f"{path}: {error.strerror}") from error


def open_module(path: Path, version: Version | None = None) -> ModuleFile:
    """Read a blob, or a module that has its ``.sigstruct`` beside it.

    Args:
        version: what it is, where the file's name does not tell.

    Raises:
        WireError: not a module; SystemFault: not readable.
    """
    data = _read(path)
    if data[4:12] == b"TDX-BLOB" or data[8:16] == b"TDX-BLOB":
        blob = TdxBlob.from_bytes(data)
    else:
        blob = TdxBlob(BlobVersion.ONE, SeamSigstruct.from_bytes(_read(_sigstruct(path))), data)
    number = version or _version_of_name(path)
    releases = _mapping_near(path)
    return ModuleFile(path, blob, number, releases.get(number) if number else None)


def _sigstruct(path: Path) -> Path:
    for candidate in (path.with_name(f"{path.name}.sigstruct"), path.with_suffix(".sigstruct")):
        if candidate.is_file():
            return candidate
    raise UsageError(f"{path}: no blob, and no signature structure beside it ({path.name}.sigstruct)")


def _version_of_name(path: Path) -> Version | None:
    found = re.search(r"(\d{1,3}\.\d{1,3}\.\d{1,3})", path.stem if path.suffix in (".blob", ".bin") else path.name)
    return parse_version(found[1]) if found else None


def _mapping_near(path: Path) -> dict[Version, Release]:
    for directory in list(path.absolute().parents)[:4]:
        if (directory / MAPPING).is_file():
            return read_mapping(_read(directory / MAPPING).decode("utf-8", errors="replace"))
    return {}


def find_modules(directory: Path) -> list[ModuleFile]:
    """All blobs below a directory of releases, oldest version first.

    Raises:
        UsageError: there are none.
    """
    paths = sorted(directory.rglob("*.blob"))[:MAX_FILES]
    if not paths:
        raise UsageError(f"{directory}: no TDX module blobs (*.blob)", hint="name a directory of Intel's releases")
    found = [open_module(path) for path in paths]
    return sorted(found, key=lambda one: one.version or (0, 0, 0))

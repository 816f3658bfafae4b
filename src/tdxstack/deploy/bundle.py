"""The part of tdxstack that managed nodes run, as one file: a zip application that needs Python 3.11 alone."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import tdxstack

#: Files and directories of the package that go in: what ``host`` and ``module`` import.
CONTENT = (
    "__init__.py",
    "errors.py",
    "cli/__init__.py",
    "cli/__main__.py",
    "cli/main.py",
    "cli/malformed.py",
    "cli/output.py",
    "cli/commands/__init__.py",
    "cli/commands/host.py",
    "cli/commands/host_install.py",
    "deploy/__init__.py",
    "deploy/boot.py",
    "deploy/install.py",
    "deploy/step.py",
    "deploy/data/__init__.py",
    "deploy/data/packages.toml",
    "measure",
    "platform/__init__.py",
    "platform/linux_capture_registers.py",
    "platform/linux_captured.py",
    "platform/linux_host_files.py",
    "platform/linux_host_source.py",
    "platform/linux_open_host.py",
    "platform/module_rules.py",
    "platform/package_lists.py",
    "preflight",
    "system/__init__.py",
    "system/files.py",
    "system/paths.py",
    "system/process.py",
    "wire",
)
MAIN = "from tdxstack.cli.main import entry\nentry()\n"
#: Files in a zip have a time; this one, so that the same content makes the same bytes.
TIME = (2020, 1, 1, 0, 0, 0)


def bundle() -> bytes:
    """The zip application's bytes; the same for the same source."""
    package = Path(tdxstack.__file__).parent
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, "__main__.py", MAIN.encode())
        for path in sorted(_files(package)):
            _add(archive, f"tdxstack/{path.relative_to(package).as_posix()}", path.read_bytes())
    return b"#!/usr/bin/env python3\n" + stream.getvalue()


def _files(package: Path) -> Iterator[Path]:
    for name in CONTENT:
        path = package / name
        if path.is_dir():
            yield from (one for one in path.rglob("*") if one.suffix in (".py", ".toml"))
        else:
            yield path


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name, TIME), data, zipfile.ZIP_DEFLATED)

"""The part of this package that runs inside guests, as one zipapp with bytes that depend on its sources alone."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import tdxstack

#: Files and folders of the package that a guest needs; all import the standard library alone.
CONTENTS = (
    "__init__.py",
    "errors.py",
    "wire",
    "measure",
    "platform/__init__.py",
    "platform/linux_guest*",
    "platform/verifier_client.py",
    "platform/software/__init__.py",
    "platform/software/guest",
    "cli/__init__.py",
    "cli/__main__.py",
    "cli/main.py",
    "cli/malformed.py",
    "cli/td_names.py",
    "cli/output.py",
    "cli/evidence.py",
    "cli/eventlog_text.py",
    "cli/commands/__init__.py",
    "cli/commands/guest*",
    "cli/commands/report*",
    "cli/commands/quote*",
    "cli/commands/eventlog*",
)
_MAIN = b"from tdxstack.cli.main import entry\n\nentry()\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)


def bundle_sources(package: Path | None = None) -> Iterator[Path]:
    """The files of the bundle, in a fixed order."""
    package = package or Path(tdxstack.__file__).parent
    found: set[Path] = set()
    for pattern in CONTENTS:
        for path in package.glob(pattern):
            found.update(path.rglob("*.py") if path.is_dir() else [path])
    yield from sorted(path for path in found if path.suffix == ".py")


def guest_bundle(package: Path | None = None) -> bytes:
    """A zip archive that ``python3 FILE`` runs as ``tdxctl``: stored, sorted, without times or owners."""
    package = package or Path(tdxstack.__file__).parent
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_entry("__main__.py"), _MAIN)
        for path in bundle_sources(package):
            archive.writestr(_entry(f"tdxstack/{path.relative_to(package).as_posix()}"), path.read_bytes())
    return stream.getvalue()


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.external_attr = 0o100644 << 16
    entry.create_system = 3
    return entry

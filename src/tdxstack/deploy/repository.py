"""Package repositories from directories of packages: ``host_repo`` and ``guest_repo`` as apt and dnf read them.

Form of an apt repository: Debian's repository format (``Packages``, ``Release``, ``InRelease``), flat: the directory
itself is the repository (``deb file:DIR ./``).
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

from tdxstack.errors import UsageError
from tdxstack.system import process
from tdxstack.system.files import sha256_file, write_atomic

KEYRING = "tdxstack.gpg"
ORIGIN = "tdxstack"
TIMEOUT = 600.0


def make(directory: Path, *, sign: str = "", gnupg: Path | None = None) -> list[str]:
    """Make the directory a repository for the packages in it; the names of what was written.

    Args:
        sign: the OpenPGP key (id or fingerprint) that signs an apt repository; empty leaves it unsigned.
        gnupg: GnuPG's home directory, None for the user's own.

    Raises:
        UsageError: neither .deb nor .rpm packages, or both; ProgramMissing, ProcessFailed.
    """
    debs = _debs(directory)
    if debs:
        _apt(directory, debs, sign, gnupg)
    else:
        process.run(["createrepo_c", "--quiet", "--update", str(directory)], timeout=TIMEOUT)
    return names(directory, sign=sign)


def names(directory: Path, *, sign: str = "") -> list[str]:
    """What ``make`` writes there. Raises UsageError as it does."""
    if not _debs(directory):
        return ["repodata/repomd.xml"]
    return ["Packages", "Packages.gz", "Release", *(["InRelease", KEYRING] if sign else [])]


def _debs(directory: Path) -> list[Path]:
    """The .deb packages; empty where there are .rpm packages."""
    debs, rpms = sorted(directory.glob("*.deb")), sorted(directory.rglob("*.rpm"))
    if bool(debs) == bool(rpms):
        counts = f"{len(debs)} .deb and {len(rpms)} .rpm packages"
        raise UsageError(f"{directory}: {counts}: packages of one kind are needed")
    return debs


def _apt(directory: Path, debs: Sequence[Path], sign: str, gnupg: Path | None) -> None:
    packages = "\n".join(_stanza(path) for path in debs).encode()
    contents = {"Packages": packages, "Packages.gz": gzip.compress(packages, mtime=0)}
    for name, data in contents.items():
        write_atomic(directory / name, data)
    newest = max(int(path.stat().st_mtime) for path in debs)
    release = _release(contents, datetime.fromtimestamp(newest, UTC))
    write_atomic(directory / "Release", release)
    for stale in ("InRelease", KEYRING):
        (directory / stale).unlink(missing_ok=True)
    if not sign:
        return
    gpg = ["gpg", "--batch", "--yes", *(["--homedir", str(gnupg)] if gnupg else [])]
    signed = process.run([*gpg, "--local-user", sign, "--clearsign"], timeout=TIMEOUT, stdin=release.encode())
    write_atomic(directory / "InRelease", signed.stdout)
    write_atomic(directory / KEYRING, process.run([*gpg, "--export", sign], timeout=TIMEOUT).stdout)


def _stanza(path: Path) -> str:
    """The package's control fields, with where it is and its digest."""
    control = process.run(["dpkg-deb", "--field", str(path)], timeout=TIMEOUT).text.rstrip("\n")
    return f"{control}\nFilename: ./{path.name}\nSize: {path.stat().st_size}\nSHA256: {sha256_file(path)}\n"


def _release(contents: dict[str, bytes], date: datetime) -> str:
    """``Release``: its date is the newest package's, so that the same packages make the same file."""
    lines = [f"Origin: {ORIGIN}", f"Label: {ORIGIN}", f"Date: {format_datetime(date, usegmt=True)}", "SHA256:"]
    for name, data in contents.items():
        lines.append(f" {hashlib.sha256(data).hexdigest()} {len(data)} {name}")
    return "\n".join(lines) + "\n"

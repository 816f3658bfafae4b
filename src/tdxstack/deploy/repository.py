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
from tdxstack.system import paths, process
from tdxstack.system.files import locked, private_directory, sha256_file, write_atomic

KEYRING, ARMOURED = "tdxstack.gpg", "tdxstack.asc"
PLAIN = ("Packages", "Packages.gz", "Release")
SIGNED = "InRelease"
REPOMD, REPOMD_SIGNATURE = "repodata/repomd.xml", "repodata/repomd.xml.asc"
OWN_KEY = "tdxstack package repository <tdxstack@localhost>"
ORIGIN = "tdxstack"
TIMEOUT = 600.0


def make(directory: Path, *, sign: str = "", gnupg: Path | None = None) -> list[str]:
    """Make the directory a repository for the packages in it; the names of what was written.

    Args:
        sign: the OpenPGP key (id or fingerprint) that signs an apt repository; empty leaves it unsigned.
        gnupg: GnuPG's home directory, None for the user's own.

    Raises:
        UsageError: neither .deb nor .rpm packages; ProgramMissing, ProcessFailed.
    """
    debs, rpms = _packages(directory)
    gpg = ["gpg", "--batch", "--yes", *(["--homedir", str(gnupg)] if gnupg else [])]
    for stale in (SIGNED, REPOMD_SIGNATURE, KEYRING, ARMOURED):
        (directory / stale).unlink(missing_ok=True)
    if debs:
        _apt(directory, debs)
    if rpms:
        _dnf(directory, rpms)
    if sign:
        _sign(directory, [*gpg, "--local-user", sign], debs=bool(debs), rpms=bool(rpms))
        write_atomic(directory / KEYRING, process.run([*gpg, "--export", sign], timeout=TIMEOUT).stdout)
        armoured = process.run([*gpg, "--armor", "--export", sign], timeout=TIMEOUT).stdout
        write_atomic(directory / ARMOURED, armoured)
    return names(directory, sign=sign)


def names(directory: Path, *, sign: str = "") -> list[str]:
    """What ``make`` writes there. Raises UsageError as it does."""
    debs, rpms = _packages(directory)
    found = [*PLAIN] if debs else []
    found += [REPOMD] if rpms else []
    if sign:
        found += [*([SIGNED] if debs else []), *([REPOMD_SIGNATURE] if rpms else []), ARMOURED, KEYRING]
    return found


def own_key() -> tuple[str, Path]:
    """The fingerprint of this machine's key for package repositories, and GnuPG's home with it; made once."""
    home = private_directory(paths.home() / "packages" / "gnupg")
    gpg = ["gpg", "--batch", "--homedir", str(home)]
    with locked(home.with_name(".gnupg.lock")):
        if not (found := _fingerprint(gpg)):
            key = ["--passphrase", "", "--quick-generate-key", OWN_KEY, "ed25519", "sign", "never"]
            process.run([*gpg, *key], timeout=TIMEOUT)
            found = _fingerprint(gpg)
        process.run(["gpgconf", "--homedir", str(home), "--kill", "all"], timeout=60, check=False)
    return found, home


def _fingerprint(gpg: Sequence[str]) -> str:
    listing = process.run([*gpg, "--with-colons", "--list-secret-keys"], timeout=TIMEOUT).text
    return next((line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr:")), "")


def _packages(directory: Path) -> tuple[list[Path], list[Path]]:
    """The .deb and the .rpm packages."""
    debs, rpms = sorted(directory.glob("*.deb")), sorted(directory.rglob("*.rpm"))
    if not debs and not rpms:
        raise UsageError(f"{directory}: no .deb or .rpm packages")
    return debs, rpms


def _sign(directory: Path, gpg: Sequence[str], *, debs: bool, rpms: bool) -> None:
    """Sign what the package managers begin with: apt's ``Release``, dnf's ``repomd.xml``."""
    if debs:
        release = (directory / "Release").read_bytes()
        signed = process.run([*gpg, "--clearsign"], timeout=TIMEOUT, stdin=release)
        write_atomic(directory / SIGNED, signed.stdout)
    if rpms:
        index = (directory / REPOMD).read_bytes()
        signed = process.run([*gpg, "--armor", "--detach-sign"], timeout=TIMEOUT, stdin=index)
        write_atomic(directory / REPOMD_SIGNATURE, signed.stdout)


def _dnf(directory: Path, rpms: Sequence[Path]) -> None:
    """``repodata``: its revision is the newest package's time, so that the same packages make the same index."""
    newest = max(int(path.stat().st_mtime) for path in rpms)
    argv = ["createrepo_c", "--quiet", "--revision", str(newest), "--set-timestamp-to-revision", str(directory)]
    process.run(argv, timeout=TIMEOUT)


def _apt(directory: Path, debs: Sequence[Path]) -> None:
    packages = "\n".join(_stanza(path) for path in debs).encode()
    contents = {"Packages": packages, "Packages.gz": gzip.compress(packages, mtime=0)}
    for name, data in contents.items():
        write_atomic(directory / name, data)
    newest = max(int(path.stat().st_mtime) for path in debs)
    write_atomic(directory / "Release", _release(contents, datetime.fromtimestamp(newest, UTC)))


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

"""The firmware that TDs boot: a TDVF with TPM2 and TdTcg2Dxe, taken from Debian as a file, never installed.

Debian 12's own OVMF (2022.11) measures nothing in a TD; Debian's ``ovmf-generic`` of 2026 does, in one file for both
worlds. It is downloaded by apt with state of our own, so that signatures are checked and nothing of the machine's
package state changes.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from tdxstack.errors import NetworkFault, ProcessFailed, SystemFault, UsageError
from tdxstack.image.mirror import configured_mirror
from tdxstack.image.sandbox import Progress, clean_environment
from tdxstack.system import paths
from tdxstack.system.files import locked, private_directory, sha256_file, write_atomic
from tdxstack.system.process import run

PACKAGE = "ovmf-generic"
MEMBER = "usr/share/ovmf/OVMF.fd"
SUITE = "sid"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
#: SHA-256 of the OVMF.fd of each version that was tested, newest first.
TESTED = {"2026.08+ds-2": "6a3e8f438ad7269f5dfd884647587b88391fb23965bb3aa7902b519438dba129"}
_VERSION = re.compile(r"[0-9A-Za-z.+~:-]{1,64}")


@dataclass(frozen=True, slots=True)
class FirmwareFile:
    """A firmware image on disk. ``version`` is the package's; ``tested`` says whether this project has tried it."""

    path: Path
    sha256: str
    package: str
    version: str
    tested: bool


def firmware_file(path: Path) -> FirmwareFile:
    """A firmware of the user's own.

    Raises:
        UsageError: there is no such file.
    """
    if not path.is_file():
        raise UsageError(f"no firmware file {path}", hint="give a single-file OVMF.fd, or leave the option out")
    digest = sha256_file(path)
    return FirmwareFile(path.absolute(), digest, "", "", digest in TESTED.values())


def default_firmware(progress: Progress = lambda _: None) -> FirmwareFile:
    """The default firmware, from the cache or downloaded (7 MB, and a package index of 10 MB).

    Raises:
        NetworkFault: the mirror cannot be reached.
        SystemFault: no Debian mirror is configured, or a tested version's file is not the one that was tested.
    """
    folder = private_directory(paths.cache() / "firmware")
    if found := _cached(folder):
        return found
    with locked(folder / ".lock"):
        if found := _cached(folder):
            return found
        return _download(folder, progress)


def _cached(folder: Path) -> FirmwareFile | None:
    """A tested version if there is one, else the latest other one; a file that was changed is not used."""
    found = [_described(path) for path in sorted(folder.glob(f"{PACKAGE}_*/OVMF.fd"))]
    whole = [file for file in found if (file.path.parent / "sha256").read_text().strip() == file.sha256]
    return next((file for file in reversed(whole) if file.tested), whole[-1] if whole else None)


def _described(path: Path) -> FirmwareFile:
    version = path.parent.name.removeprefix(f"{PACKAGE}_")
    digest = sha256_file(path)
    return FirmwareFile(path, digest, PACKAGE, version, TESTED.get(version) == digest)


def _download(folder: Path, progress: Progress) -> FirmwareFile:
    progress(f"downloading the firmware: {PACKAGE} from Debian {SUITE}")
    work = folder / f".download-{os.getpid()}"
    for stale in folder.glob(".download-*"):
        shutil.rmtree(stale, ignore_errors=True)
    try:
        package, version = _fetch_package(work)
        run(["dpkg-deb", "--extract", str(package), str(work / "tree")], timeout=60)
        file = _admit(work / "tree" / MEMBER, version, work / "ready")
        target = folder / f"{PACKAGE}_{version}"
        shutil.rmtree(target, ignore_errors=True)
        (work / "ready").rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    said = "tested" if file.tested else f"not the tested version {next(iter(TESTED))}"
    progress(f"firmware: {PACKAGE} {version} ({said}), sha256 {file.sha256}")
    return FirmwareFile(target / "OVMF.fd", file.sha256, PACKAGE, version, file.tested)


def _fetch_package(work: Path) -> tuple[Path, str]:
    """Download the .deb into ``work`` by apt, which checks the archive's signature and the file's digest."""
    mirror = configured_mirror("debian")
    if mirror is None:
        raise SystemFault(
            "no Debian mirror is configured on this machine to take the firmware from",
            hint="set TDXSTACK_MIRROR_DEBIAN to the URL of one, or give --firmware FILE",
        )
    for name in ("lists/partial", "cache/archives/partial"):
        private_directory(work / name)
    signed = f"[signed-by={KEYRING}] " if KEYRING.is_file() else ""
    (work / "sid.list").write_text(f"deb {signed}{mirror} {SUITE} main\n")
    options = {
        "Dir::State::lists": work / "lists",
        "Dir::State::status": "/dev/null",
        "Dir::Cache": work / "cache",
        "Dir::Etc::sourcelist": work / "sid.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::Etc::preferencesparts": "-",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        # A mirror's sid may lag behind its Valid-Until. The signature is checked all the same, and a tested version
        # must be the very file that was tested.
        "Acquire::Check-Valid-Until": "false",
        "APT::Architecture": "amd64",
        "APT::Sandbox::User": "root",
        "APT::Update::Error-Mode": "any",
    }
    common = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    environment = clean_environment() | {"HOME": str(work)}
    try:
        run(["apt-get", "-qq", *common, "update"], timeout=300, env=environment)
        run(["apt-get", "-qq", *common, "download", PACKAGE], timeout=300, env=environment, cwd=work)
    except ProcessFailed as failed:
        if "No space left" in failed.output:
            raise SystemFault("the disk is full", hint=f"free about 100 MB (df -h {work.parent})") from failed
        hint = "check the network and the mirror in /etc/apt, or give --firmware FILE"
        raise NetworkFault(f"the firmware cannot be downloaded: {_last_line(failed.output)}", hint=hint) from failed
    package = next(work.glob(f"{PACKAGE}_*.deb"))
    version = run(["dpkg-deb", "--field", str(package), "Version"], timeout=30).text.strip()
    if not _VERSION.fullmatch(version):
        raise SystemFault(f"{PACKAGE}: unexpected version {version!r}")
    return package, version


def _last_line(output: str) -> str:
    return next((line for line in reversed(output.strip().splitlines()) if line.startswith("E:")), "apt-get failed")


def _admit(source: Path, version: str, ready: Path) -> FirmwareFile:
    """Copy the firmware and its digest into ``ready``; a tested version must be the very file that was tested."""
    if not source.is_file():
        raise SystemFault(f"{PACKAGE} {version} has no {MEMBER}", hint="give --firmware FILE")
    digest = sha256_file(source)
    if version in TESTED and digest != TESTED[version]:
        raise SystemFault(
            f"{PACKAGE} {version}: OVMF.fd has sha256 {digest}, but {TESTED[version]} was tested",
            hint="do not use this mirror; or give --firmware FILE",
        )
    private_directory(ready)
    write_atomic(ready / "OVMF.fd", source.read_bytes())
    write_atomic(ready / "sha256", digest + "\n")
    return FirmwareFile(ready / "OVMF.fd", digest, PACKAGE, version, version in TESTED)

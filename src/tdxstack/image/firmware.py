"""The firmware that TDs boot, taken from Debian as files, never installed.

=========== ================================================================= ====================================
name        what it is                                                        for
=========== ================================================================= ====================================
generic     TDVF with TPM2 and TdTcg2Dxe, without secure boot; the default    hardware, and the software platform
secure-boot its variable store, and its code with secure boot; needs SMM      secure boot on the software platform
inteltdx    TDVF with secure boot and Microsoft's keys; measures into no TPM  secure boot on hardware
=========== ================================================================= ====================================

Debian 12's own OVMF (2022.11) measures nothing in a TD. The files are downloaded by apt with state of our own, so
that signatures are checked and nothing of the machine's package state changes.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tdxstack.errors import NetworkFault, ProcessFailed, SystemFault, UsageError
from tdxstack.image.mirror import configured_mirror
from tdxstack.image.sandbox import Progress, clean_environment
from tdxstack.system import paths
from tdxstack.system.files import locked, private_directory, sha256_file, write_atomic
from tdxstack.system.process import run

SUITE = "sid"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_VERSION = re.compile(r"[0-9A-Za-z.+~:-]{1,64}")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a firmware comes from: ``members`` of a Debian package, joined in this order into ``file``.

    ``tested`` has the SHA-256 of the file of each version that was tested, newest first; ``folder`` begins the name
    of its directory in the cache.
    """

    package: str
    members: tuple[str, ...]
    folder: str
    file: str
    tested: Mapping[str, str]


DEFAULT = "generic"
SOURCES: dict[str, Source] = {
    "generic": Source(
        "ovmf-generic",
        ("usr/share/ovmf/OVMF.fd",),
        "ovmf-generic",
        "OVMF.fd",
        {"2026.08+ds-2": "6a3e8f438ad7269f5dfd884647587b88391fb23965bb3aa7902b519438dba129"},
    ),
    "secure-boot": Source(
        "ovmf-generic",
        ("usr/share/OVMF/OVMF_VARS_4M.fd", "usr/share/OVMF/OVMF_CODE_4M.secboot.fd"),
        "secure-boot",
        "OVMF.secboot.fd",
        {"2026.08+ds-2": "aadc18983f92da77543fa3ac4bec6ac773e340162b41a36a600ca13348e3f5a8"},
    ),
    "inteltdx": Source(
        "ovmf-inteltdx",
        ("usr/share/ovmf/OVMF.inteltdx.ms.fd",),
        "ovmf-inteltdx",
        "OVMF.inteltdx.ms.fd",
        {"2026.08+ds-2": "a265075b4147a096109e501e76196df1ec8a18659c26f7401492c597ec88f312"},
    ),
}


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
    return FirmwareFile(
        path.absolute(), digest, "", "", any(digest in one.tested.values() for one in SOURCES.values())
    )


def is_name(word: str) -> bool:
    """Whether ``word`` names a firmware of :data:`SOURCES` and no file here."""
    return word in SOURCES and not Path(word).exists()


def default_firmware(progress: Progress = lambda _: None) -> FirmwareFile:
    """The default firmware; see :func:`named_firmware`."""
    return named_firmware(DEFAULT, progress)


def named_firmware(name: str, progress: Progress = lambda _: None) -> FirmwareFile:
    """A firmware of :data:`SOURCES`, from the cache or downloaded (1 or 7 MB, and a package index of 10 MB).

    Raises:
        NetworkFault: the mirror cannot be reached.
        SystemFault: no Debian mirror is configured, or a tested version's file is not the one that was tested.
    """
    source = SOURCES[name]
    folder = private_directory(paths.cache() / "firmware")
    if found := _cached(source, folder):
        return found
    with locked(folder / ".lock"):
        if found := _cached(source, folder):
            return found
        return _download(source, folder, progress)


def cached_firmware(name: str = DEFAULT) -> FirmwareFile | None:
    """A firmware of :data:`SOURCES` if it has been downloaded already."""
    return _cached(SOURCES[name], paths.cache() / "firmware")


def _cached(source: Source, folder: Path) -> FirmwareFile | None:
    """A tested version if there is one, else the latest other one; a file that was changed is not used."""
    found = [_described(source, path) for path in sorted(folder.glob(f"{source.folder}_*/{source.file}"))]
    whole = [file for file in found if (file.path.parent / "sha256").read_text().strip() == file.sha256]
    return next((file for file in reversed(whole) if file.tested), whole[-1] if whole else None)


def _described(source: Source, path: Path) -> FirmwareFile:
    version = path.parent.name.removeprefix(f"{source.folder}_")
    digest = sha256_file(path)
    return FirmwareFile(path, digest, source.package, version, source.tested.get(version) == digest)


def _download(source: Source, folder: Path, progress: Progress) -> FirmwareFile:
    progress(f"downloading the firmware: {source.package} from Debian {SUITE}")
    work = folder / f".download-{os.getpid()}"
    for stale in folder.glob(".download-*"):
        shutil.rmtree(stale, ignore_errors=True)
    try:
        package, version = _fetch_package(work, source.package)
        run(["dpkg-deb", "--extract", str(package), str(work / "tree")], timeout=60)
        file = _admit(source, work / "tree", version, work / "ready")
        target = folder / f"{source.folder}_{version}"
        shutil.rmtree(target, ignore_errors=True)
        (work / "ready").rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    said = "tested" if file.tested else f"not the tested version {next(iter(source.tested))}"
    progress(f"firmware: {source.file} of {source.package} {version} ({said}), sha256 {file.sha256}")
    return replace(file, path=target / source.file)


def _fetch_package(work: Path, name: str) -> tuple[Path, str]:
    """Download the .deb into ``work`` by apt, which checks the archive's signature and the file's digest."""
    mirror = configured_mirror("debian")
    if mirror is None:
        raise SystemFault(
            "no Debian mirror is configured on this machine to take the firmware from",
            hint="set TDXSTACK_MIRROR_DEBIAN to the URL of one, or give --firmware FILE",
        )
    for part in ("lists/partial", "cache/archives/partial"):
        private_directory(work / part)
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
        run(["apt-get", "-qq", *common, "download", name], timeout=300, env=environment, cwd=work)
    except ProcessFailed as failed:
        if "No space left" in failed.output:
            raise SystemFault("the disk is full", hint=f"free about 100 MB (df -h {work.parent})") from failed
        hint = "check the network and the mirror in /etc/apt, or give --firmware FILE"
        raise NetworkFault(f"the firmware cannot be downloaded: {_last_line(failed.output)}", hint=hint) from failed
    package = next(work.glob(f"{name}_*.deb"))
    version = run(["dpkg-deb", "--field", str(package), "Version"], timeout=30).text.strip()
    if not _VERSION.fullmatch(version):
        raise SystemFault(f"{name}: unexpected version {version!r}")
    return package, version


def _last_line(output: str) -> str:
    return next((line for line in reversed(output.strip().splitlines()) if line.startswith("E:")), "apt-get failed")


def _admit(source: Source, tree: Path, version: str, ready: Path) -> FirmwareFile:
    """Put the firmware and its digest into ``ready``; a tested version must be the very file that was tested."""
    for member in source.members:
        if not (tree / member).is_file():
            raise SystemFault(f"{source.package} {version} has no {member}", hint="give --firmware FILE")
    data = b"".join((tree / member).read_bytes() for member in source.members)
    digest = hashlib.sha256(data).hexdigest()
    tested = source.tested.get(version)
    if tested not in (None, digest):
        raise SystemFault(
            f"{source.package} {version}: {source.file} has sha256 {digest}, but {tested} was tested",
            hint="do not use this mirror; or give --firmware FILE",
        )
    private_directory(ready)
    write_atomic(ready / source.file, data)
    write_atomic(ready / "sha256", digest + "\n")
    return FirmwareFile(ready / source.file, digest, source.package, version, tested is not None)

"""Packages put into a running guest that reaches no mirror: resolved and fetched on the host, installed in the guest.

apt on the host works on the guest's own list of installed packages and its own release, with state of its own, so
that exactly what the guest lacks is fetched, with the archive's signatures checked. What was fetched stays in the
cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tdxstack.cloud.vmguest import VMGuest
from tdxstack.errors import NetworkFault, PlatformMissing, ProcessFailed, ProgramMissing
from tdxstack.image.mirror import configured_mirror
from tdxstack.image.sandbox import clean_environment
from tdxstack.system import paths
from tdxstack.system.files import locked, private_directory, write_atomic
from tdxstack.system.process import find, run
from tdxstack.tdtests.guest_shell import answer

APT_TIMEOUT = 900.0
INSTALL_TIMEOUT = 1800.0
KEYRINGS = {
    "debian": Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    "ubuntu": Path("/usr/share/keyrings/ubuntu-archive-keyring.gpg"),
}
FOLDER = "/var/cache/tdxstack-packages"


def install(guest: VMGuest, packages: Sequence[str], program: str) -> None:
    """Install ``packages``, unless the guest has ``program`` already.

    Raises:
        PlatformMissing: a guest without apt, or a host without apt or a mirror of the guest's distribution.
        NetworkFault: the mirror cannot be reached.
    """
    if guest.ssh_run(f"command -v {program}").retcode == 0:
        return
    lines = answer(guest, "cat /etc/os-release").replace('"', "").splitlines()
    release = {key: value for key, _, value in (line.partition("=") for line in lines)}
    files = fetch(release.get("ID", ""), release.get("VERSION_CODENAME", ""), _status(guest), packages)
    answer(guest, f"mkdir -p {FOLDER}")
    for file in files:
        copied = guest.scp_in(file, f"{FOLDER}/{file.name}")
        assert copied.retcode == 0, copied.stderr
    # No service starts by itself, as in an image build: the test starts what it needs.
    policy = "printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d"
    unpacked = f"DEBIAN_FRONTEND=noninteractive dpkg --install --force-confnew --force-unsafe-io {FOLDER}/*.deb"
    script = f"{policy} && {unpacked}; status=$?; rm -f /usr/sbin/policy-rc.d; exit $status"
    answer(guest, script, timeout=INSTALL_TIMEOUT)


def _status(guest: VMGuest) -> bytes:
    return (answer(guest, "cat /var/lib/dpkg/status") + "\n").encode()


def fetch(distribution: str, release: str, status: bytes, packages: Sequence[str]) -> list[Path]:
    """The package files that a system with dpkg's ``status`` lacks for ``packages``.

    Raises:
        PlatformMissing, NetworkFault: as ``install``.
    """
    mirror = configured_mirror(distribution)
    if distribution not in KEYRINGS or not release or mirror is None:
        raise PlatformMissing(
            f"no mirror of {distribution or 'the guest'} {release} is configured on this host",
            hint=f"set TDXSTACK_MIRROR_{(distribution or 'debian').upper()}, or take an image that has the programs",
        )
    try:
        find("apt-get")
    except ProgramMissing as error:
        raise PlatformMissing(f"{error.message}: packages for the guest cannot be fetched") from None
    folder = private_directory(paths.cache() / "guest-packages" / f"{distribution}-{release}")
    keyring = KEYRINGS[distribution]
    signed = f"[signed-by={keyring}] " if keyring.is_file() else ""
    with locked(folder / ".lock"):
        write_atomic(folder / "sources.list", f"deb {signed}{mirror} {release} main\n")
        write_atomic(folder / "status", status)
        return _fetch(folder, packages)


def _fetch(folder: Path, packages: Sequence[str]) -> list[Path]:
    for name in ("lists/partial", "archives/partial"):
        private_directory(folder / name)
    options = {
        "Dir::State::lists": folder / "lists",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder,
        "Dir::Cache::archives": folder / "archives",
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::Etc::preferencesparts": "-",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "APT::Architecture": "amd64",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "APT::Update::Error-Mode": "any",
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    environment = clean_environment() | {"HOME": str(folder)}
    try:
        if not any((folder / "lists").glob("*_Packages*")):
            run(["apt-get", "-qq", *words, "update"], timeout=APT_TIMEOUT, env=environment)
        wanted = run(
            ["apt-get", "-qq", *words, "install", "--print-uris", "--yes", *packages], timeout=60, env=environment
        ).text
        run(
            ["apt-get", "-qq", *words, "install", "--download-only", "--yes", *packages],
            timeout=APT_TIMEOUT,
            env=environment,
        )
    except ProcessFailed as error:
        lines = [line for line in error.output.splitlines() if line.startswith("E:")]
        raise NetworkFault(
            f"packages for the guest cannot be fetched: {(lines or ['apt-get failed'])[-1]}",
            hint=f"check the mirror in {folder}/sources.list; rm -r {folder} to begin anew",
        ) from error
    names = [line.split()[1] for line in wanted.splitlines() if line.startswith("'")]
    return [folder / "archives" / name for name in names] or sorted((folder / "archives").glob("*.deb"))

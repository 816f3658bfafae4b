"""The tools that build images: a tree of Debian packages, the same on every machine, made once and cached."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from tdxstack.image.mirror import configured_mirror
from tdxstack.image.sandbox import Progress, contained, run_logged
from tdxstack.system import paths
from tdxstack.system.files import locked, private_directory

SUITE = "trixie"
PACKAGES = (
    "apt",
    "busybox-static",
    "cpio",
    "debian-archive-keyring",
    "dosfstools",
    "dpkg",
    "e2fsprogs",
    "kmod",
    "mkosi",
    "mtools",
    "systemd-boot-efi",
    "systemd-repart",
    "systemd-ukify",
    "zstd",
)
#: What building another distribution takes besides.
FAMILY_PACKAGES: dict[str, tuple[str, ...]] = {
    "debian": (),
    "ubuntu": ("ubuntu-keyring",),
    "fedora": ("distribution-gpg-keys", "dnf", "rpm"),
    "centos": ("distribution-gpg-keys", "dnf", "rpm"),
    "rocky": ("distribution-gpg-keys", "dnf", "rpm"),
    "alma": ("distribution-gpg-keys", "dnf", "rpm"),
    "rhel": ("distribution-gpg-keys", "dnf", "rpm"),
}
#: Where a build's directories are bound; they must exist in the tree.
MOUNT_POINTS = ("build", "packages", "repository")


def tools_packages(distribution: str) -> tuple[str, ...]:
    """Packages of the tree that builds images of ``distribution``."""
    return PACKAGES + FAMILY_PACKAGES.get(distribution, ())


def tools_digest(distribution: str) -> str:
    """Names the content of the tree: hex SHA-256 of suite and packages."""
    return hashlib.sha256(" ".join((SUITE, *tools_packages(distribution), *MOUNT_POINTS)).encode()).hexdigest()


def tools_path(distribution: str) -> Path:
    """Where the tree is, or will be."""
    return paths.cache() / f"tools-{tools_digest(distribution)[:12]}"


def ensure_tools_tree(distribution: str, progress: Progress) -> Path:
    """The tree that builds images of ``distribution``, made by mmdebstrap if it is not there yet.

    Raises:
        NetworkFault: the mirror cannot be reached.
        SystemFault: mmdebstrap failed; its log is kept.
    """
    target = tools_path(distribution)
    if target.is_dir():
        return target
    with locked(paths.cache() / "tools.lock"):
        if not target.is_dir():
            progress(f"making the tools tree: Debian {SUITE} with mkosi (once)")
            _make(target, tools_packages(distribution))
    return target


def _make(target: Path, packages: tuple[str, ...]) -> None:
    for stale in target.parent.glob(".tools-*"):
        shutil.rmtree(stale, ignore_errors=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    log = private_directory(paths.cache() / "logs") / "tools-tree.log"
    log.write_bytes(b"")
    mirror = configured_mirror("debian")
    argv = [
        "mmdebstrap",
        "--variant=apt",
        "--mode=root",
        f"--include={','.join(packages)}",
        SUITE,
        str(partial / "root"),
    ]
    partial.mkdir()
    try:
        run_logged(contained([*argv, *([mirror] if mirror else [])]), log, lambda _: None, home=partial)
        for name in MOUNT_POINTS:
            (partial / "root" / name).mkdir()
        for name in ("resolv.conf", "hosts"):
            path = partial / "root/etc" / name
            path.unlink(missing_ok=True)
            path.touch()
        (partial / "root").replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)

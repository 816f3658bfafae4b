"""Clean roots to build in: a tree by mmdebstrap or mkosi in namespaces of its own, or a container engine's image."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tdxstack.deploy.packaging.job import BUILD, Job
from tdxstack.deploy.packaging.recipe import Format
from tdxstack.image.mirror import configured_mirror
from tdxstack.image.sandbox import Progress, contained, entered, run_logged
from tdxstack.image.tools_tree import ensure_tools_tree
from tdxstack.system import paths
from tdxstack.system.files import locked, private_directory
from tdxstack.system.process import run

#: A root is used for other builds so long; then it is made anew, with the packages of that day.
KEPT_SECONDS = 7 * 86400
ENGINES = ("chroot", "docker", "podman")
DEBIAN_MIRROR, UBUNTU_MIRROR = "https://deb.debian.org/debian", "http://archive.ubuntu.com/ubuntu"


class CleanRoot(Protocol):
    """Where build scripts run: nothing of the machine is in it but the build's directory, at ``/build``."""

    def making(self) -> list[list[str]]:
        """The commands that make it."""
        ...

    def make(self, log: Path, progress: Progress) -> None:
        """Make it anew."""

    def wrapped(self, argv: Sequence[str], environment: Mapping[str, str], *, network: bool) -> list[str]:
        """The command that runs ``argv`` in it."""
        ...

    def discard(self) -> None:
        """Remove it."""


def open_root(job: Job, work: Path, engine: str) -> CleanRoot:
    """The root for a job; ``work`` is the build's directory."""
    if engine != "chroot":
        return ContainerRoot(job, work, engine)
    return MmdebstrapRoot(job, work) if job.target.format is Format.DEB else MkosiRoot(job, work)


def _with_environment(environment: Mapping[str, str], argv: Sequence[str], *, network: bool) -> list[str]:
    """``argv`` with that environment alone, and without a network unless it is wanted."""
    apart = [] if network else ["unshare", "--net"]
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    variables = [f"{name}={value}" for name, value in sorted(environment.items())]
    return [*apart, "env", "-i", path, *variables, *argv]


def _prepare(tree: Path) -> None:
    """What entering the tree binds to must be there."""
    (tree / BUILD.lstrip("/")).mkdir(exist_ok=True)
    for name in ("resolv.conf", "hosts"):
        path = tree / "etc" / name
        path.unlink(missing_ok=True)
        path.touch()


@dataclass(frozen=True, slots=True)
class TreeRoot:
    """A tree below the build's directory, entered in namespaces of its own."""

    job: Job
    work: Path

    @property
    def tree(self) -> Path:
        return self.work / "root"

    def wrapped(self, argv: Sequence[str], environment: Mapping[str, str], *, network: bool) -> list[str]:
        inner = _with_environment(environment, argv, network=network)
        return entered(self.tree, {self.work / "inside": BUILD}, inner)

    def discard(self) -> None:
        shutil.rmtree(self.tree, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class MmdebstrapRoot(TreeRoot):
    """Debian or Ubuntu by mmdebstrap, with what its distributions build in (variant buildd)."""

    @property
    def kept(self) -> Path:
        """Where a root of these packages is kept for other builds."""
        names = " ".join((self.job.target.name, *self.job.root_packages()))
        return paths.cache() / "roots" / f"{self.job.target.name}-{hashlib.sha256(names.encode()).hexdigest()[:12]}"

    def making(self) -> list[list[str]]:
        return self._making(self.kept)

    def _making(self, tree: Path) -> list[list[str]]:
        target = self.job.target
        mirror = configured_mirror(target.distribution)
        default = UBUNTU_MIRROR if target.distribution == "ubuntu" else DEBIAN_MIRROR
        components = ["--components=main,universe"] if target.distribution == "ubuntu" else []
        include = [f"--include={','.join(self.job.root_packages())}"] if self.job.root_packages() else []
        argv = ["mmdebstrap", "--mode=root", "--variant=buildd", *components, *include]
        return [contained([*argv, target.release, str(tree), mirror or default])]

    def make(self, log: Path, progress: Progress) -> None:
        self.discard()
        kept = self.kept
        private_directory(kept.parent)
        with locked(kept.with_name(f".{kept.name}.lock")):
            if not kept.is_dir() or time.time() - kept.stat().st_mtime > KEPT_SECONDS:
                self._make(kept, log, progress)
            run(["cp", "--archive", "--reflink=auto", str(kept), str(self.tree)], timeout=1800)

    def _make(self, kept: Path, log: Path, progress: Progress) -> None:
        names = ", ".join(self.job.root_packages()) or "nothing more"
        progress(f"{self.job.name}: clean root of {self.job.target.name}, with {names}")
        partial, scratch = self.work / "partial", self.work / "scratch"
        shutil.rmtree(partial, ignore_errors=True)
        scratch.mkdir(exist_ok=True)
        for argv in self._making(partial):
            run_logged(argv, log, lambda _: None, home=scratch)
        _prepare(partial)
        shutil.rmtree(kept, ignore_errors=True)
        partial.rename(kept)
        os.utime(kept)


@dataclass(frozen=True, slots=True)
class MkosiRoot(TreeRoot):
    """A distribution of RPM packages by mkosi, which knows its repositories and keys, from the tree of tools."""

    def configuration(self) -> str:
        """The tree that mkosi makes."""
        target = self.job.target
        mirror = configured_mirror(target.distribution)
        lines = ["[Distribution]", f"Distribution={target.distribution}", f"Release={target.release}"]
        lines += ["Architecture=x86-64", *([f"LocalMirror={mirror}"] if mirror else [])]
        lines += ["", "[Output]", "Format=directory", "Output=root", "OutputDirectory=/build"]
        lines += ["", "[Content]", "Bootable=no", "WithDocs=no", "WithRecommends=no", "Packages="]
        lines += [f"        {name}" for name in self.job.root_packages()]
        return "\n".join(lines) + "\n"

    def making(self) -> list[list[str]]:
        return [["mkosi", "--directory", f"{BUILD}/mkosi", "--force", "build"]]

    def make(self, log: Path, progress: Progress) -> None:
        self.discard()
        tools = ensure_tools_tree(self.job.target.distribution, progress)
        progress(f"{self.job.name}: clean root of {self.job.target.name} ({len(self.job.root_packages())} packages)")
        (self.work / "mkosi").mkdir(exist_ok=True)
        (self.work / "mkosi/mkosi.conf").write_text(self.configuration())
        for argv in self.making():
            run_logged(entered(tools, {self.work: BUILD}, argv), log, lambda _: None, home=Path("/root"))
        _prepare(self.tree)


@dataclass(frozen=True, slots=True)
class ContainerRoot:
    """An image of a container engine: the distribution's own, with the packages put in."""

    job: Job
    work: Path
    engine: str

    @property
    def image(self) -> str:
        return f"tdxstack-build:{self.job.key()[:12]}"

    @property
    def _container(self) -> str:
        return f"tdxstack-build-{self.job.key()[:12]}"

    def making(self) -> list[list[str]]:
        names = list(self.job.root_packages())
        if self.job.target.format is Format.DEB:
            install = ["apt-get", "install", "--yes", "--no-install-recommends", "build-essential", *names]
            script = f"apt-get update && DEBIAN_FRONTEND=noninteractive {' '.join(install)}"
        else:
            script = f"dnf install --assumeyes --setopt=install_weak_deps=False {' '.join(names)}"
        start = [self.engine, "run", "--name", self._container, self.job.target.image, "sh", "-euc", script]
        return [start, [self.engine, "commit", self._container, self.image], [self.engine, "rm", self._container]]

    def make(self, log: Path, progress: Progress) -> None:
        progress(f"{self.job.name}: {self.engine} image of {self.job.target.image}")
        for argv in ([self.engine, "rm", "--force", self._container], *self.making()):
            run_logged(argv, log, lambda _: None, home=self.work)

    def wrapped(self, argv: Sequence[str], environment: Mapping[str, str], *, network: bool) -> list[str]:
        variables = [word for name, value in sorted(environment.items()) for word in ("--env", f"{name}={value}")]
        apart = [] if network else ["--network=none"]
        mount = ["--volume", f"{self.work / 'inside'}:{BUILD}"]
        return [self.engine, "run", "--rm", *apart, *mount, *variables, self.image, *argv]

    def discard(self) -> None:
        run([self.engine, "rmi", "--force", self.image], timeout=300, check=False)

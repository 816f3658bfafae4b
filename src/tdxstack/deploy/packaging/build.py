"""Carries a job out: stage after stage, each logged and done once. An interrupted build goes on at its stage."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tdxstack.deploy.packaging import sources
from tdxstack.deploy.packaging.job import BUILD, STAGES, Job, script_path
from tdxstack.deploy.packaging.kconfig import parse_config, parse_fragment, unmet
from tdxstack.deploy.packaging.recipe import FRAGMENTS, Archive, Repository
from tdxstack.deploy.packaging.roots import CleanRoot, open_root
from tdxstack.errors import SystemFault
from tdxstack.image.sandbox import Progress, require_root, run_logged
from tdxstack.system import paths
from tdxstack.system.files import locked, private_directory, sha256_file, write_atomic
from tdxstack.system.process import run

SCHEMA = "tdxstack/package-build/v1"


@dataclass(frozen=True, slots=True)
class Settings:
    """How to build.

    Args:
        output: directory that gets ``host_repo``, ``guest_repo``, ``logs`` and ``manifests``.
        engine: ``chroot``, ``docker`` or ``podman``.
        jobs: compilers at a time.
        until: the last stage to do.
        force: build what is there already.
        keep: leave the build's directory, for a look.
    """

    output: Path
    engine: str = "chroot"
    jobs: int = 1
    until: str = STAGES[-1]
    force: bool = False
    keep: bool = False


def manifest_path(job: Job, settings: Settings) -> Path:
    return settings.output / "manifests" / f"{job.name}-{'-'.join(job.formats)}.json"


def present(job: Job, settings: Settings) -> dict[str, Any] | None:
    """The manifest of the same build if all its packages are there, unchanged; else None."""
    path = manifest_path(job, settings)
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        whole = all(sha256_file(settings.output / one["path"]) == one["sha256"] for one in manifest["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return manifest if whole and manifest["key"] == job.key() else None


def build(job: Job, settings: Settings, progress: Progress) -> dict[str, Any]:
    """Build the packages of a job; its manifest. With ``until`` before the last stage, the manifest has no files.

    Raises:
        UsageError, NetworkFault, EvidenceRejected, SystemFault: the log stays; run it again to go on.
    """
    if not settings.force and (found := present(job, settings)):
        progress(f"{job.name}: {job.recipe.package} {job.full_version} is there")
        return found
    require_root(f"build package {job.recipe.component}")
    work = private_directory(paths.cache() / "build") / f"{job.name}-{'-'.join(job.formats)}-{job.key()[:12]}"
    hint = f"another build of {job.name} is running"
    with locked(work.with_name(f".{work.name}.lock"), wait=False, hint=hint):
        return _Run(job, settings, work, progress).to_the_end()


class _Run:
    """One build under way; we hold its lock."""

    def __init__(self, job: Job, settings: Settings, work: Path, progress: Progress) -> None:
        self.job, self.settings, self.work, self.progress = job, settings, work, progress
        self.inside = work / "inside"
        self.log = private_directory(settings.output / "logs") / f"{job.name}.log"
        self.root: CleanRoot = open_root(job, work, settings.engine)
        self.resumed = False

    def to_the_end(self) -> dict[str, Any]:
        started = time.monotonic()
        if self.settings.force and self.settings.until == STAGES[-1]:
            shutil.rmtree(self.work, ignore_errors=True)
        private_directory(self.inside)
        self.resumed = any(self._stamp(stage).exists() for stage in STAGES)
        if not self.resumed:
            self.log.write_bytes(b"")
        stages: Mapping[str, Callable[[], None]] = {
            "sources": self._sources,
            "root": self._root,
            "unpack": self._unpack,
            "configure": self._configure,
            "build": self._build,
            "package": self._package,
        }
        for name in STAGES:
            self._once(name, stages[name])
            if name == self.settings.until:
                break
        else:
            raise SystemFault(f"no stage {self.settings.until}")
        return self._finish(time.monotonic() - started)

    def _stamp(self, stage: str) -> Path:
        return self.work / f"done-{stage}"

    def _once(self, stage: str, action: Callable[[], None]) -> None:
        if self._stamp(stage).exists():
            return
        with self.log.open("ab") as stream:
            stream.write(f"==> {stage}\n".encode())
        action()
        write_atomic(self._stamp(stage), "")

    def _sources(self) -> None:
        for source in self.job.sources():
            if isinstance(source, Archive):
                sources.obtain(source, self.progress)

    def _root(self) -> None:
        self.root.make(self.log, self.progress)

    def _unpack(self) -> None:
        """The source tree, as upstream has it, with the patches on it."""
        for name in ("source", "series", "home", "config", "packages", "tree", "scripts"):
            shutil.rmtree(self.inside / name, ignore_errors=True)
            (self.inside / name).mkdir()
        for source in self.job.sources():
            if isinstance(source, Archive):
                self._extract(source)
            else:
                sources.check_out(source, self._place(source), self.log, self.progress)
        for name in self.job.recipe.config:
            shutil.copy(FRAGMENTS / name, self.inside / "config" / name)
        for name in (self.job.packaging.configure, self.job.packaging.script):
            if name:
                shutil.copy(script_path(name), self.inside / "scripts" / name)
        self._patch()

    def _extract(self, source: Archive) -> None:
        place, strip = self._place(source), 0 if source.unpack == "-" else source.strip
        place.mkdir(parents=True, exist_ok=True)
        tar = ["tar", "--extract", "--no-same-owner", f"--strip-components={strip}", f"--directory={place}"]
        run([*tar, f"--file={sources.cached(source)}"], timeout=1800)

    def _place(self, source: Archive | Repository) -> Path:
        return (
            self.inside / "series" / source.name if source.unpack == "-" else self.inside / "source" / source.unpack
        )

    def _patch(self) -> None:
        for patches in self.job.recipe.patches:
            tree = self.inside / "series" / patches.source
            found = list(sources.patch_files(tree, patches.series, patches.glob))
            self.progress(f"{self.job.name}: {len(found)} patches")
            for path in found:
                inside = f"{BUILD}/{path.relative_to(self.inside)}"
                patch = ["patch", "--batch", "--forward", f"--strip={patches.strip}", f"--input={inside}"]
                self._in_root([*patch, f"--directory={BUILD}/source"], network=False)

    def _configure(self) -> None:
        if not self.job.packaging.configure:
            return
        self._script(self.job.packaging.configure)
        if not self.job.recipe.config:
            return
        wanted: dict[str, str] = {}
        for name in self.job.recipe.config:
            wanted |= parse_fragment(name, (FRAGMENTS / name).read_text())
        text = (self.inside / "source/.config").read_text(errors="replace")
        if lines := unmet(wanted, parse_config(text)):
            hint = "the kernel does not know these options, or lacks what they depend on"
            raise SystemFault(f"{len(lines)} options did not come out: {'; '.join(lines[:8])}", hint=hint)
        self.progress(f"{self.job.name}: all {len(wanted)} options of {', '.join(self.job.recipe.config)} hold")

    def _build(self) -> None:
        self.progress(f"{self.job.name}: building {self.job.recipe.package} {self.job.full_version}")
        self._script(self.job.packaging.script)

    def _package(self) -> None:
        for name, text in self.job.package_files().items():
            path = self.inside / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for argv in self.job.package_commands():
            self._in_root(argv, network=False)

    def _script(self, name: str) -> None:
        script = f"cd {BUILD}/source && exec sh -eu {BUILD}/scripts/{name}"
        self._in_root(["sh", "-euc", script], network=self.job.recipe.network)

    def _in_root(self, argv: list[str], *, network: bool) -> None:
        environment = self.job.environment(self.settings.jobs)
        command = self.root.wrapped(argv, environment, network=network)
        run_logged(command, self.log, lambda _: None, home=self.work)

    def _finish(self, seconds: float) -> dict[str, Any]:
        done = self.settings.until == STAGES[-1]
        manifest = {
            "schema": SCHEMA,
            "component": self.job.recipe.component,
            "world": self.job.recipe.world,
            "target": self.job.target.name,
            "package": self.job.recipe.package,
            "version": self.job.full_version,
            "key": self.job.key(),
            "sources": [asdict(source) for source in self.job.sources()],
            "files": self._collect() if done else [],
            "log": str(self.log),
            "seconds": round(seconds, 1),
            "resumed": self.resumed,
        }
        if done:
            private_directory(self.settings.output / "manifests")
            write_atomic(manifest_path(self.job, self.settings), json.dumps(manifest, indent=2) + "\n")
            if not self.settings.keep:
                self.root.discard()
                shutil.rmtree(self.work, ignore_errors=True)
            self.progress(f"{self.job.name}: built in {seconds:.0f} s")
        else:
            self.progress(f"{self.job.name}: done as far as {self.settings.until}: {self.inside}")
        return manifest

    def _collect(self) -> list[dict[str, Any]]:
        """Put the packages into their repository's directory."""
        found = sorted(path for path in (self.inside / "packages").rglob("*") if path.suffix in (".deb", ".rpm"))
        if not found:
            raise SystemFault(f"{self.job.name} made no package", hint=f"the whole log: {self.log}")
        files = []
        for path in found:
            place = repository(self.settings.output, self.job.recipe.side) / path.name
            private_directory(place.parent)
            place.parent.chmod(0o755)
            write_atomic(place, path.read_bytes())
            files.append(
                {
                    "path": str(place.relative_to(self.settings.output)),
                    "bytes": place.stat().st_size,
                    "sha256": sha256_file(place),
                }
            )
        return files


def repository(output: Path, side: str) -> Path:
    """Directory of the packages of one side."""
    return output / f"{side}_repo"

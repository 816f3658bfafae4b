"""One build, decided: what is built for which distribution, and by which commands. Nothing has been touched yet."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tdxstack.deploy.packaging import make_deb, make_rpm
from tdxstack.deploy.packaging.recipe import (
    FRAGMENTS,
    HERE,
    SCRIPTS,
    Archive,
    Format,
    Packaging,
    Recipe,
    Repository,
    World,
)
from tdxstack.errors import UsageError

#: Counts up when the way of building changes, so that what older versions built is not taken for the same.
MAKING = 1
#: Where the build's directory is in the clean root.
BUILD = "/build"
STAGES = ("sources", "root", "unpack", "configure", "build", "package")
RPM_ROOT = ("bzip2", "findutils", "gcc", "git-core", "make", "patch", "rpm-build", "tar", "which", "xz")
DEFAULT_TARGET: dict[World, dict[Format, str]] = {
    World.UPSTREAM: {Format.DEB: "debian-13", Format.RPM: "centos-9"},
    World.TDX15: {Format.DEB: "ubuntu-22.04", Format.RPM: "rhel-8"},
}


@dataclass(frozen=True, slots=True)
class Target:
    """A distribution to build for."""

    name: str
    format: Format
    distribution: str
    release: str
    image: str


def targets() -> dict[str, Target]:
    """All targets by name."""
    table = tomllib.loads((HERE / "targets.toml").read_text())
    return {
        name: Target(name, Format(row["format"]), row["distribution"], row["release"], row["image"])
        for name, row in table.items()
    }


@dataclass(frozen=True, slots=True)
class Job:
    """A recipe, a target and the formats to make. ``pins`` are SHA-256 digests given by the user, by source name."""

    recipe: Recipe
    target: Target
    formats: tuple[Format, ...]
    pins: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.recipe.component}-{self.recipe.world}-{self.target.name}"

    @property
    def packaging(self) -> Packaging:
        """What builds: with several formats there is one script for all of them."""
        return self.recipe.packaging(self.formats[0])

    @property
    def full_version(self) -> str:
        return f"{self.recipe.version}-{self.recipe.release}"

    def sources(self) -> list[Archive | Repository]:
        """The sources, with the user's digests where the recipe has none."""
        return [
            Archive(**{**asdict(source), "urls": source.urls, "sha256": self.pins[source.name]})
            if isinstance(source, Archive) and not source.sha256 and source.name in self.pins
            else source
            for source in self.recipe.sources
        ]

    def root_packages(self) -> tuple[str, ...]:
        """What the clean root has beside the distribution's smallest set."""
        names = {name for form in self.formats for name in self.recipe.packaging(form).requires}
        if self.target.format is Format.RPM:
            names |= set(RPM_ROOT)
        elif Format.RPM in self.formats:
            names.add("rpm")
        return tuple(sorted(names))

    def environment(self, jobs: int) -> dict[str, str]:
        """What build scripts see."""
        return {
            "SOURCE_DATE_EPOCH": str(self.recipe.epoch),
            "TZ": "UTC",
            "LC_ALL": "C.UTF-8",
            "HOME": f"{BUILD}/home",
            "DESTDIR": f"{BUILD}/tree",
            "PACKAGES": f"{BUILD}/packages",
            "CONFIG": f"{BUILD}/config",
            "VERSION": self.recipe.version,
            "RELEASE": self.recipe.release,
            "JOBS": str(jobs),
            **(self.recipe.environment or {}),
        }

    def key(self) -> str:
        """Hex SHA-256 of all that the packages are made from, but for the versions of the root's packages."""
        scripts = [self.packaging.configure, self.packaging.script]
        body = {
            "making": MAKING,
            "recipe": {
                **asdict(self.recipe),
                "formats": [asdict(self.recipe.packaging(one)) for one in self.formats],
            },
            "sources": [asdict(source) for source in self.sources()],
            "target": self.target.name,
            "formats": self.formats,
            "scripts": [(SCRIPTS / name).read_text() for name in scripts if name],
            "config": [(FRAGMENTS / name).read_text() for name in self.recipe.config],
        }
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()

    def package_files(self) -> dict[str, str]:
        """What packaging reads, by path below the build's directory."""
        files: dict[str, str] = {}
        for form in () if self.packaging.ready else self.formats:
            module = make_deb if form is Format.DEB else make_rpm
            files |= module.files(self.recipe)
        return files

    def package_commands(self) -> list[list[str]]:
        """The commands that make packages of what the build installed."""
        commands: list[list[str]] = []
        for form in () if self.packaging.ready else self.formats:
            module = make_deb if form is Format.DEB else make_rpm
            commands += module.commands(self.recipe, BUILD)
        return commands


def decide(
    recipe: Recipe, target: str | None = None, formats: Sequence[Format] = (), pins: Mapping[str, str] | None = None
) -> Job:
    """The job for what was asked; the target by default is the paper's for its stack, Debian for the upstream one.

    Raises:
        UsageError: formats and target that do not go together; PlatformMissing: the recipe does not make the format.
    """
    chosen = _target(recipe, target, formats)
    wanted = tuple(dict.fromkeys(formats)) or (chosen.format,)
    packagings = [recipe.packaging(form) for form in wanted]
    if any(form is not chosen.format for form in wanted) and not (recipe.portable and chosen.format is Format.DEB):
        hint = f"tdxctl build package {recipe.component} --format {wanted[0]} --target {_default(recipe, wanted[0])}"
        raise UsageError(f"{chosen.name} builds .{chosen.format} packages", hint=hint)
    if len({(one.script, one.ready) for one in packagings}) > 1 or (len(wanted) > 1 and packagings[0].ready):
        raise UsageError(f"{recipe.component}: its formats are built apart", hint="give one --format at a time")
    return Job(recipe, chosen, wanted, dict(pins or {}))


def _default(recipe: Recipe, form: Format) -> str:
    return DEFAULT_TARGET[recipe.world][form]


def _target(recipe: Recipe, name: str | None, formats: Sequence[Format]) -> Target:
    known = targets()
    if name is not None and name not in known:
        raise UsageError(f"no target {name!r}", hint=f"one of: {', '.join(known)}")
    if name is not None:
        return known[name]
    if recipe.portable:
        return known[DEFAULT_TARGET[World.UPSTREAM][Format.DEB]]
    form = formats[0] if formats else next(iter(recipe.formats))
    return known[_default(recipe, form)]


def described(job: Job) -> dict[str, Any]:
    """The job as a document: what would be fetched, installed, run and made."""
    recipe = job.recipe
    return {
        "component": recipe.component,
        "title": recipe.title,
        "world": recipe.world,
        "target": job.target.name,
        "formats": list(job.formats),
        "package": recipe.package,
        "version": job.full_version,
        "repository": f"{recipe.side}_repo",
        "key": job.key(),
        "sources": [asdict(source) for source in job.sources()],
        "patches": [asdict(patches) for patches in recipe.patches],
        "config": list(recipe.config),
        "root_packages": list(job.root_packages()),
        "network": recipe.network,
        "scripts": [name for name in (job.packaging.configure, job.packaging.script) if name],
        "unpinned": [source.name for source in recipe.unpinned() if source.name not in job.pins],
    }


def script_path(name: str) -> Path:
    """A build script's file."""
    return SCRIPTS / name

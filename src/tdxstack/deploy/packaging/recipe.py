"""Recipes of packages, as data: one TOML file per component under ``recipes``, with a table per world.

Components: Intel white paper "Linux Stacks for Intel TDX 1.5", Table 2 and section 3.2.1. Every source is pinned: an
archive by SHA-256, a repository by commit. An archive of which only the signed list of digests is known says where
that is (``sums``); such a build wants its digest from the user.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from tdxstack.deploy.packaging.kconfig import parse_fragment
from tdxstack.errors import PlatformMissing, UsageError

_T = TypeVar("_T")
HERE = Path(__file__).parent
RECIPES, FRAGMENTS, SCRIPTS = HERE / "recipes", HERE / "config", HERE / "scripts"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]{1,63}")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._~-]{0,127}")
_VERSION = re.compile(r"[0-9][0-9A-Za-z.+~]{0,63}")
_ONE = r"[A-Za-z0-9][A-Za-z0-9+._()/:-]{0,127}( \((<<|<=|=|>=|>>) [^)]+\))?"
_PACKAGE = re.compile(rf"{_ONE}( \| {_ONE})*")
_URL = re.compile(r"(https://|debian:)[^\s]+")


class World(StrEnum):
    """Which stack the package is of."""

    TDX15 = "tdx15"
    UPSTREAM = "upstream"


class Side(StrEnum):
    """Which repository the package belongs into."""

    HOST = "host"
    GUEST = "guest"


class Format(StrEnum):
    """Form of the package."""

    DEB = "deb"
    RPM = "rpm"


@dataclass(frozen=True, slots=True)
class Archive:
    """A file of upstream's. ``unpack`` is where its content goes below the source tree, ``-`` for not unpacked.

    ``urls`` are tried in order; ``debian:PATH`` is a path on the Debian mirror that this machine uses. An empty
    ``sha256`` is given by the user, who reads it at ``sums``.
    """

    name: str
    urls: tuple[str, ...]
    sha256: str = ""
    sums: str = ""
    unpack: str = "."
    strip: int = 1


@dataclass(frozen=True, slots=True)
class Repository:
    """A commit of a git repository, checked out at ``unpack`` below the source tree. It pins its submodules."""

    name: str
    git: str
    commit: str
    unpack: str = "."
    submodules: bool = False


@dataclass(frozen=True, slots=True)
class Patches:
    """Patches of a source: the files that ``series`` lists (with ``#`` comments), or all that match ``glob``."""

    source: str
    series: str = ""
    glob: str = ""
    strip: int = 1


@dataclass(frozen=True, slots=True)
class Packaging:
    """How one format is made.

    ``requires`` are packages in the clean root, ``depends`` and the rest are fields of the package. ``script`` is a
    file under ``scripts``; it installs below ``$DESTDIR``, or, where ``ready``, leaves packages in ``$PACKAGES``.
    ``configure`` runs before it; where the recipe has kernel configuration fragments, what came of them is checked in
    between.
    """

    script: str
    configure: str = ""
    requires: tuple[str, ...] = ()
    depends: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    replaces: tuple[str, ...] = ()
    ready: bool = False


@dataclass(frozen=True, slots=True)
class Recipe:
    """One component in one world.

    ``portable`` content is the same on every distribution (firmware), so that any clean root builds both formats.
    ``network`` says that the build downloads what a lock file in the source pins (crates). ``epoch`` is the time of
    all files (SOURCE_DATE_EPOCH). ``config`` are kernel configuration fragments under ``config``.
    """

    component: str
    title: str
    world: World
    side: Side
    package: str
    version: str
    release: str
    license: str
    homepage: str
    epoch: int
    architecture: str
    sources: tuple[Archive | Repository, ...]
    formats: Mapping[Format, Packaging]
    patches: tuple[Patches, ...] = ()
    config: tuple[str, ...] = ()
    environment: Mapping[str, str] | None = None
    portable: bool = False
    network: bool = False

    def packaging(self, form: Format) -> Packaging:
        """Raises PlatformMissing: the recipe does not make that format."""
        if form not in self.formats:
            made = ", ".join(self.formats)
            raise PlatformMissing(f"{self.component} ({self.world}) makes no .{form}", hint=f"it makes: {made}")
        return self.formats[form]

    def unpinned(self) -> list[Archive]:
        return [source for source in self.sources if isinstance(source, Archive) and not source.sha256]


def components() -> tuple[str, ...]:
    """Names of all components, sorted."""
    return tuple(sorted(path.stem for path in RECIPES.glob("*.toml")))


def worlds(component: str) -> tuple[World, ...]:
    """The worlds in which there is a recipe for ``component``."""
    return tuple(world for world in World if world in _document(component).get("world", {}))


def load(component: str, world: World) -> Recipe:
    """The recipe of a component in a world.

    Raises:
        UsageError: no such component, or a recipe that is not well-formed; PlatformMissing: not in that world.
    """
    if component not in components():
        raise UsageError(f"no package {component!r}", hint=f"one of: {', '.join(components())}, all")
    document = _document(component)
    if world not in document.get("world", {}):
        hint = f"tdxctl build package {component} --world {worlds(component)[0]}"
        raise PlatformMissing(f"{component} is no part of the {world} stack", hint=hint)
    return parse(component, world, document)


def _document(component: str) -> dict[str, Any]:
    return tomllib.loads((RECIPES / f"{component}.toml").read_text())


def parse(component: str, world: World, document: Mapping[str, Any]) -> Recipe:
    """A recipe from its TOML document: what the document says of all worlds, under what it says of ``world``.

    Raises:
        UsageError: a key that is missing, unknown, of the wrong type, or that names what is not there.
    """
    table = {key: value for key, value in document.items() if key != "world"} | dict(document["world"][world])
    reader = _Reader(f"{component} ({world})", table)
    formats = {form: _packaging(reader, form) for form in Format if form in table}
    recipe = Recipe(
        component=component,
        title=reader.text("title"),
        world=world,
        side=Side(reader.one_of("side", tuple(Side))),
        package=reader.matching("package", _NAME),
        version=reader.matching("version", _VERSION),
        release=reader.matching("release", _VERSION),
        license=reader.text("license"),
        homepage=reader.text("homepage"),
        epoch=reader.number("epoch"),
        architecture=reader.one_of("architecture", ("x86_64", "any")),
        sources=tuple(_source(reader, entry) for entry in reader.tables("sources")),
        formats=formats,
        patches=tuple(_patches(reader, entry) for entry in reader.tables("patches", needed=False)),
        config=reader.texts("config"),
        environment=reader.strings("environment"),
        portable=reader.flag("portable"),
        network=reader.flag("network"),
    )
    for form in Format:
        reader.known.add(form)
    reader.finish()
    _check(reader, recipe)
    return recipe


def _check(reader: _Reader, recipe: Recipe) -> None:
    """What only the whole recipe shows."""
    if not recipe.formats or not recipe.sources:
        raise reader.fault("it has no source, or no format")
    names = [source.name for source in recipe.sources]
    if len(set(names)) != len(names):
        raise reader.fault("two sources have one name")
    for patches in recipe.patches:
        if patches.source not in names:
            raise reader.fault(f"patches of {patches.source}, which is no source")
    for name in recipe.config:
        if not (FRAGMENTS / name).is_file():
            raise reader.fault(f"no configuration fragment {name}")
        parse_fragment(name, (FRAGMENTS / name).read_text())
    for packaging in recipe.formats.values():
        for script in (packaging.script, packaging.configure):
            if script and not (SCRIPTS / script).is_file():
                raise reader.fault(f"no script {script}")


def _source(reader: _Reader, entry: Mapping[str, Any]) -> Archive | Repository:
    inner = reader.inner("source", entry)
    name, unpack = inner.matching("name", _FILE), inner.path("unpack", "." if "git" in entry else "-")
    if "git" in entry:
        found: Archive | Repository = Repository(
            name, inner.matching("git", _URL), inner.matching("commit", _COMMIT), unpack, inner.flag("submodules")
        )
    else:
        urls, sums = inner.texts("urls"), inner.text("sums") if "sums" in entry else ""
        digest = "" if sums and "sha256" not in entry else inner.matching("sha256", _SHA256)
        if not urls or not all(_URL.fullmatch(url) for url in urls):
            raise inner.fault("urls must be https:// or debian: addresses")
        strip = inner.number("strip") if "strip" in entry else 1
        found = Archive(name, urls, digest, sums, unpack, strip)
    inner.finish()
    return found


def _patches(reader: _Reader, entry: Mapping[str, Any]) -> Patches:
    inner = reader.inner("patches", entry)
    strip = inner.number("strip") if "strip" in entry else 1
    series = inner.path("series", "") if "series" in entry else ""
    found = Patches(inner.text("source"), series, inner.text("glob") if "glob" in entry else "", strip)
    inner.finish()
    if bool(found.series) == bool(found.glob):
        raise inner.fault("either series or glob")
    return found


def _packaging(reader: _Reader, form: Format) -> Packaging:
    inner = reader.inner(form, reader.table[form])
    lists = {name: inner.texts(name) for name in ("requires", "depends", "provides", "conflicts", "replaces")}
    for name, values in lists.items():
        for value in values:
            if not _PACKAGE.fullmatch(value):
                raise inner.fault(f"{name}: {value!r} is no package")
    configure = inner.matching("configure", _FILE) if "configure" in inner.table else ""
    found = Packaging(inner.matching("script", _FILE), configure, ready=inner.flag("ready"), **lists)
    inner.finish()
    return found


class _Reader:
    """Takes typed values out of a table, and complains of what nobody took."""

    def __init__(self, what: str, table: Mapping[str, Any]) -> None:
        self.what, self.table = what, table
        self.known: set[str] = set()

    def fault(self, reason: str) -> UsageError:
        return UsageError(f"recipe {self.what}: {reason}")

    def inner(self, name: str, table: Mapping[str, Any]) -> _Reader:
        if not isinstance(table, Mapping):
            raise self.fault(f"{name} must be a table")
        return _Reader(f"{self.what}, {name}", table)

    def _take(self, key: str, kind: type[_T], default: Callable[[], _T] | None = None) -> _T:
        self.known.add(key)
        if key not in self.table:
            if default is None:
                raise self.fault(f"{key} is missing")
            return default()
        value = self.table[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.fault(f"{key} must be of type {kind.__name__}")
        return value

    def text(self, key: str) -> str:
        value = self._take(key, str)
        if not value or not value.isprintable():
            raise self.fault(f"{key} must be one line of text")
        return value

    def matching(self, key: str, pattern: re.Pattern[str]) -> str:
        value = self.text(key)
        if not pattern.fullmatch(value):
            raise self.fault(f"{key}: {value!r} is not well-formed")
        return value

    def one_of(self, key: str, values: tuple[str, ...]) -> str:
        value = self.text(key)
        if value not in values:
            raise self.fault(f"{key} must be one of {', '.join(values)}")
        return value

    def path(self, key: str, default: str) -> str:
        """A relative path that stays inside its tree."""
        value = self._take(key, str, lambda: default)
        if value.startswith("/") or ".." in value.split("/"):
            raise self.fault(f"{key}: {value!r} leaves the tree")
        return value

    def number(self, key: str) -> int:
        value = self._take(key, int)
        if value < 0:
            raise self.fault(f"{key} must not be negative")
        return value

    def flag(self, key: str) -> bool:
        return self._take(key, bool, lambda: False)

    def texts(self, key: str) -> tuple[str, ...]:
        values = self._take(key, list, list)
        if not all(isinstance(value, str) for value in values):
            raise self.fault(f"{key} must be a list of strings")
        return tuple(values)

    def strings(self, key: str) -> Mapping[str, str] | None:
        values = self._take(key, dict, dict)
        if not all(isinstance(value, str) for value in values.values()):
            raise self.fault(f"{key} must hold strings")
        return values or None

    def tables(self, key: str, *, needed: bool = True) -> list[Mapping[str, Any]]:
        return self._take(key, list, None if needed else list)

    def finish(self) -> None:
        if unknown := sorted(set(self.table) - self.known):
            raise self.fault(f"unknown key {unknown[0]}")

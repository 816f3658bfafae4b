"""Several builds, one after the other: one that fails leaves the others; the repositories are indexed at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tdxstack.deploy import repository
from tdxstack.deploy.packaging.build import Settings, build
from tdxstack.deploy.packaging.build import repository as directory_of
from tdxstack.deploy.packaging.job import STAGES, Job, decide
from tdxstack.deploy.packaging.recipe import Format, World, components, load, worlds
from tdxstack.errors import ExitCode, PlatformMissing, TdxStackError, UsageError
from tdxstack.image.sandbox import Progress
from tdxstack.system.process import run

ALL = "all"


@dataclass(slots=True)
class Outcome:
    """What a batch came to: manifests, faults by job, and the files that index the repositories."""

    built: list[dict[str, Any]] = field(default_factory=list)
    failed: list[tuple[str, TdxStackError]] = field(default_factory=list)
    indexes: list[str] = field(default_factory=list)

    @property
    def code(self) -> ExitCode:
        """The fault's own code where there is one fault, 1 for several."""
        codes = {fault.exit_code for _, fault in self.failed}
        return ExitCode.DONE if not codes else codes.pop() if len(codes) == 1 else ExitCode.FAILED


def jobs(
    names: Sequence[str], world: World, target: str | None, formats: Sequence[Format], pins: dict[str, str]
) -> list[Job]:
    """The jobs for component names, or for all components of a world.

    Raises:
        UsageError, PlatformMissing: a name, target or format that is not there.
    """
    everything = ALL in names
    if everything and len(names) > 1:
        raise UsageError("all is all: give no other name beside it")
    chosen = [name for name in components() if world in worlds(name)] if everything else list(dict.fromkeys(names))
    recipes = [load(name, world) for name in chosen]
    if everything and formats:
        recipes = [recipe for recipe in recipes if all(form in recipe.formats for form in formats)]
    sources = {source.name for recipe in recipes for source in recipe.sources}
    if unknown := sorted(set(pins) - sources):
        raise UsageError(f"--pin {unknown[0]}: no such source", hint=f"one of: {', '.join(sorted(sources))}")
    found = []
    for recipe in recipes:
        try:
            found.append(decide(recipe, target, formats, pins))
        except (UsageError, PlatformMissing):
            if not everything:
                raise
            # of all, each goes to the target that it can be built for
            found.append(decide(recipe, None, formats, pins))
    return found


def carry_out(
    found: Sequence[Job], settings: Settings, sign: str | None, gnupg: Path | None, say: Progress
) -> Outcome:
    """Build all, then index and sign. ``sign`` is an OpenPGP key, "" for none, None for this machine's own."""
    outcome = Outcome()
    for job in found:
        try:
            outcome.built.append(build(job, settings, say))
        except TdxStackError as fault:
            say(f"{job.name}: {fault.message}")
            outcome.failed.append((job.name, fault))
    if settings.until != STAGES[-1]:
        return outcome
    sides = {job.recipe.side for job in found}
    places = [directory_of(settings.output, side) for side in sorted(sides)]
    _index([place for place in places if place.is_dir() and any(place.iterdir())], sign, gnupg, outcome)
    return outcome


def _index(places: Sequence[Path], sign: str | None, gnupg: Path | None, outcome: Outcome) -> None:
    own = sign is None
    key, home = repository.own_key() if sign is None and places else (sign or "", gnupg)
    try:
        for place in places:
            outcome.indexes += [str(place / name) for name in repository.make(place, sign=key, gnupg=home)]
    finally:
        if own and home is not None:
            run(["gpgconf", "--homedir", str(home), "--kill", "all"], timeout=60, check=False)

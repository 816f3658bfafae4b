"""The state of a halted machine on disk: memory and devices as QEMU's migration stream, what the platform knows of
the TD beside it, and for a snapshot the disk. Whole or absent: a directory that has its ``state.json``.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tdxstack.errors import StateError, SystemFault, UsageError
from tdxstack.system.files import private_directory, write_atomic
from tdxstack.vm.record import OVERLAY, Place, load, now
from tdxstack.vm.settings import NAME
from tdxstack.vm.site import Site
from tdxstack.vm.sites import site_of
from tdxstack.vm.spec import SETTINGS, TdSpec

SCHEMA = "tdxstack/saved-state/v1"


@dataclass(frozen=True, slots=True)
class Saved:
    """One saved state: ``directory`` with its facts is here, memory and disk are in ``there`` at the TD's site."""

    directory: Path
    there: Path
    site: Site

    @property
    def memory(self) -> Path:
        return self.there / "memory"

    @property
    def disk(self) -> Path:
        return self.there / OVERLAY

    @property
    def facts_path(self) -> Path:
        return self.directory / "state.json"

    def exists(self) -> bool:
        return self.facts_path.exists()

    def begin(self) -> Saved:
        """An empty directory beside this one, to be filled and then published."""
        unfinished = replace(self, directory=_unfinished(self.directory), there=_unfinished(self.there))
        unfinished.discard()
        private_directory(unfinished.directory)
        self.site.make_directory(unfinished.there)
        return unfinished

    def publish(self, target: Saved, facts: Mapping[str, Any]) -> None:
        """Write the facts and take the place of ``target``."""
        write_atomic(
            self.facts_path, json.dumps({"schema": SCHEMA, "created": now(), **facts}, indent=2) + "\n", mode=0o600
        )
        target.discard()
        if self.there != self.directory:
            self.site.move(self.there, target.there)
        self.directory.rename(target.directory)

    def facts(self) -> dict[str, Any]:
        """What was written with it.

        Raises:
            SystemFault: it cannot be read.
        """
        try:
            values: dict[str, Any] = json.loads(self.facts_path.read_bytes())
        except (OSError, ValueError) as error:
            raise SystemFault(f"cannot read {self.facts_path}: {error}", hint="discard the saved state") from error
        return values

    def discard(self) -> None:
        self.facts_path.unlink(missing_ok=True)
        shutil.rmtree(self.directory, ignore_errors=True)
        if self.there != self.directory:
            self.site.remove(self.there)


def _unfinished(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.new")


def _saved(name: str, *parts: str) -> Saved:
    site = site_of(load(name).spec)
    return Saved(Place(name).directory.joinpath(*parts), site.directory(name).joinpath(*parts), site)


def saved_state(name: str) -> Saved:
    """Where ``td save`` keeps a TD's state until its next start."""
    return _saved(name, "saved")


def snapshot(name: str, label: str) -> Saved:
    """The snapshot of a TD that is called ``label``."""
    if not NAME.fullmatch(label):
        raise UsageError(f"{label!r} is not a name for a snapshot", hint="letters, digits, '_', '.' and '-'")
    return _saved(name, "snapshots", label)


def discard_unfinished(name: str) -> None:
    """Remove what a save or a snapshot has left that was cut off."""
    folder = Place(name).directory
    for path in (*folder.glob(".saved.new"), *folder.glob("snapshots/.*.new")):
        shutil.rmtree(path, ignore_errors=True)


def snapshots(name: str) -> list[tuple[str, dict[str, Any]]]:
    """Labels and facts of a TD's snapshots, oldest first."""
    folder = Place(name).directory / "snapshots"
    found = [snapshot(name, one.name) for one in folder.glob("*") if not one.name.startswith(".")]
    named = [(one.directory.name, one.facts()) for one in found if one.exists()]
    return sorted(named, key=lambda item: str(item[1]["created"]))


def revert(name: str, label: str) -> None:
    """Put a snapshot's disk and memory in place of the TD's own, so that its next start goes on from there.

    Raises:
        UsageError: there is no such snapshot.
        StateError: the TD's settings are others than the snapshot's.
    """
    source, target = snapshot(name, label), saved_state(name)
    if not source.exists():
        raise UsageError(f"TD {name} has no snapshot {label!r}", hint=f"tdxctl td snapshot list {name}")
    check_same_machine(load(name).spec, source.facts(), snapshot=label)
    site, unfinished = source.site, target.begin()
    site.copy(source.memory, unfinished.memory)
    if site.exists(source.disk):
        overlay = site.directory(name) / OVERLAY
        fresh = overlay.with_name(f".{overlay.name}.new")
        site.copy(source.disk, fresh)
        site.move(fresh, overlay)
    unfinished.publish(target, source.facts())


def check_same_machine(spec: TdSpec, facts: Mapping[str, Any], *, snapshot: str | None = None) -> None:
    """Refuse a state that was saved by a machine with another specification.

    Raises:
        StateError: names the settings that differ, and how to set them back.
    """
    before, present = facts["spec"], spec.to_mapping()
    differing = sorted(
        key for key in {*before, *present} - {"autostart", "transient"} if before.get(key) != present.get(key)
    )
    if differing:
        hint = shlex.join(["tdxctl", "td", "set", spec.name, *_options(before, differing)])
        raise StateError(
            f"TD {spec.name}",
            f"{f'revert to {snapshot}' if snapshot else 'restore its state'} ({', '.join(differing)} changed)",
            "set up otherwise",
            "the settings it was saved with",
            hint=hint if snapshot else f"{hint}, or tdxctl td start {spec.name} --discard-saved",
        )


def _options(settings: Mapping[str, Any], names: list[str]) -> Iterator[str]:
    """The options of `td set` that give the settings ``names`` these values."""
    for setting in SETTINGS:
        if setting.name not in names:
            continue
        value = settings.get(setting.name)
        if value is None:
            yield from ("--unset", setting.name)
        elif isinstance(value, bool):
            yield setting.flag if value else setting.flag.replace("--", "--no-", 1)
        else:
            for one in value if setting.repeated else (value,):
                yield from (setting.flag, str(one))

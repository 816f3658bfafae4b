"""The state of a halted machine on disk: memory and devices as QEMU's migration stream, what the platform knows of
the TD beside it, and for a snapshot the disk. Whole or absent: a directory that has its ``state.json``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tdxstack.errors import StateError, SystemFault, UsageError
from tdxstack.system.files import private_directory, write_atomic
from tdxstack.system.process import run
from tdxstack.vm.record import Place, now
from tdxstack.vm.settings import NAME
from tdxstack.vm.spec import TdSpec

SCHEMA = "tdxstack/saved-state/v1"
COPY_TIMEOUT = 3600.0


@dataclass(frozen=True, slots=True)
class Saved:
    """One saved state."""

    directory: Path

    @property
    def memory(self) -> Path:
        return self.directory / "memory"

    @property
    def disk(self) -> Path:
        return self.directory / "overlay.qcow2"

    @property
    def facts_path(self) -> Path:
        return self.directory / "state.json"

    def exists(self) -> bool:
        return self.facts_path.exists()

    def begin(self) -> Saved:
        """An empty directory beside this one, to be filled and then published."""
        unfinished = self.directory.with_name(f".{self.directory.name}.new")
        shutil.rmtree(unfinished, ignore_errors=True)
        private_directory(unfinished)
        return Saved(unfinished)

    def publish(self, target: Saved, facts: Mapping[str, Any]) -> None:
        """Write the facts and take the place of ``target``."""
        write_atomic(
            self.facts_path, json.dumps({"schema": SCHEMA, "created": now(), **facts}, indent=2) + "\n", mode=0o600
        )
        shutil.rmtree(target.directory, ignore_errors=True)
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


def saved_state(name: str) -> Saved:
    """Where ``td save`` keeps a TD's state until its next start."""
    return Saved(Place(name).directory / "saved")


def snapshot(name: str, label: str) -> Saved:
    """The snapshot of a TD that is called ``label``."""
    if not NAME.fullmatch(label):
        raise UsageError(f"{label!r} is not a name for a snapshot", hint="letters, digits, '_', '.' and '-'")
    return Saved(Place(name).directory / "snapshots" / label)


def discard_unfinished(name: str) -> None:
    """Remove what a save or a snapshot has left that was cut off."""
    folder = Place(name).directory
    for path in (*folder.glob(".saved.new"), *folder.glob("snapshots/.*.new")):
        shutil.rmtree(path, ignore_errors=True)


def snapshots(name: str) -> list[tuple[str, dict[str, Any]]]:
    """Labels and facts of a TD's snapshots, oldest first."""
    folder = Place(name).directory / "snapshots"
    found = [Saved(path) for path in folder.glob("*") if not path.name.startswith(".")] if folder.is_dir() else []
    named = [(one.directory.name, one.facts()) for one in found if one.exists()]
    return sorted(named, key=lambda item: str(item[1]["created"]))


def copy(source: Path, target: Path) -> None:
    """Copy a large file, sparse, sharing blocks where the file system can.

    Raises:
        ProcessFailed: no space.
    """
    run(["cp", "--reflink=auto", "--sparse=always", "--", str(source), str(target)], timeout=COPY_TIMEOUT)


def revert(name: str, label: str) -> None:
    """Put a snapshot's disk and memory in place of the TD's own, so that its next start goes on from there.

    Raises:
        UsageError: there is no such snapshot.
    """
    source, target = snapshot(name, label), saved_state(name)
    if not source.exists():
        raise UsageError(f"TD {name} has no snapshot {label!r}", hint=f"tdxctl td snapshot list {name}")
    unfinished = target.begin()
    copy(source.memory, unfinished.memory)
    if source.disk.exists():
        overlay = Place(name).overlay
        fresh = overlay.with_name(f".{overlay.name}.new")
        copy(source.disk, fresh)
        fresh.replace(overlay)
    unfinished.publish(target, source.facts())


def check_same_machine(spec: TdSpec, facts: Mapping[str, Any]) -> None:
    """Refuse a state that was saved by a machine with another specification.

    Raises:
        StateError: names the settings that differ.
    """
    before, present = facts["spec"], spec.to_mapping()
    differing = sorted(
        key for key in {*before, *present} - {"autostart", "transient"} if before.get(key) != present.get(key)
    )
    if differing:
        raise StateError(
            f"TD {spec.name}",
            f"restore its state ({', '.join(differing)} changed)",
            "saved",
            "the settings it was saved with",
            hint=f"set them back, or tdxctl td start {spec.name} --discard-saved",
        )

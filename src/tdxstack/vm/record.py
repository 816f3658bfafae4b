"""What is known of a TD, on disk: its specification, its state, and the facts of its present run.

Layout of a TD's directory (``paths.tds()/NAME``): ``td.json`` (this record), ``lock`` (held by the supervisor while
there is one), ``overlay.qcow2``, ``console.log``, ``qemu.log``, ``supervisor.log``, ``known_hosts``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tdxstack.errors import StateError, SystemFault, UsageError
from tdxstack.system import paths
from tdxstack.system.files import private_directory, write_atomic
from tdxstack.vm.spec import TdSpec
from tdxstack.vm.state import State, allowed

SCHEMA = "tdxstack/td-record/v1"
OVERLAY = "overlay.qcow2"
KILLED = "its supervisor was killed"
#: A Unix socket's path may have 107 bytes; the longest of ours is 20 below the run directory.
MAX_RUN_PATH = 86


@dataclass(frozen=True, slots=True)
class Run:
    """The facts of one run. Ports are of 127.0.0.1; ``ports`` are written as in the specification."""

    mac: str = ""
    supervisor_pid: int = 0
    qemu_pid: int = 0
    ssh_port: int | None = None
    ports: tuple[str, ...] = ()
    vsock_cid: int | None = None
    accelerator: str = ""
    dialect: str = ""
    firmware: str | None = None
    firmware_sha256: str | None = None
    boots: int = 0

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Run:
        known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        return cls(**{**known, "ports": tuple(known.get("ports", ()))})


@dataclass(frozen=True, slots=True)
class TdRecord:
    """A TD as it stands on disk. ``since`` is when it came into its state (UTC, ISO 8601)."""

    spec: TdSpec
    state: State = State.DEFINED
    reason: str | None = None
    since: str = ""
    created: str = ""
    run: Run = Run()

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def place(self) -> Place:
        return Place(self.spec.name)

    def moved(self, state: State, reason: str | None = None, *, run: Run | None = None) -> TdRecord:
        """The record in its next state.

        Raises:
            StateError: there is no such step.
        """
        if not allowed(self.state, state):
            raise StateError(f"TD {self.name}", f"become {state.value}", self.state.value, "another state")
        return replace(self, state=state, reason=reason, since=now(), run=run if run is not None else self.run)

    def to_mapping(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "name": self.name,
            "state": self.state.value,
            "reason": self.reason,
            "since": self.since,
            "created": self.created,
            "run": {**asdict(self.run), "ports": list(self.run.ports)},
            "spec": self.spec.to_mapping(),
        }

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> TdRecord:
        return cls(
            spec=TdSpec.from_mapping(values["spec"]),
            state=State(values["state"]),
            reason=values["reason"],
            since=values["since"],
            created=values["created"],
            run=Run.from_mapping(values["run"]),
        )


@dataclass(frozen=True, slots=True)
class Place:
    """Where a TD's files are."""

    name: str

    @property
    def directory(self) -> Path:
        return paths.tds() / self.name

    @property
    def record(self) -> Path:
        return self.directory / "td.json"

    @property
    def reserve(self) -> Path:
        """Space that the supervisor gives up to write the state when the disk is full."""
        return self.directory / "reserve"

    @property
    def lock(self) -> Path:
        return self.directory / "lock"

    @property
    def overlay(self) -> Path:
        return self.directory / OVERLAY

    @property
    def console_log(self) -> Path:
        return self.directory / "console.log"

    @property
    def qemu_log(self) -> Path:
        return self.directory / "qemu.log"

    @property
    def supervisor_log(self) -> Path:
        return self.directory / "supervisor.log"

    @property
    def known_hosts(self) -> Path:
        return self.directory / "known_hosts"

    @property
    def run_dir(self) -> Path:
        return paths.runtime() / self.name

    @property
    def control(self) -> Path:
        return self.run_dir / "control.sock"

    def make_run_dir(self) -> Path:
        """Create the directory of this run's sockets.

        Raises:
            SystemFault: its path is too long for a Unix socket.
        """
        path = private_directory(self.run_dir)
        if len(str(path)) > MAX_RUN_PATH:
            raise SystemFault(
                f"{path} is too long for a Unix socket's directory (at most {MAX_RUN_PATH} characters)",
                hint="set TDXSTACK_RUNTIME to a short directory, e.g. /run/tdxstack, or take a shorter name",
            )
        return path


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def names() -> list[str]:
    """Names of all TDs of this home, sorted."""
    if not (folder := paths.tds()).is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if (entry / "td.json").exists())


def load(name: str) -> TdRecord:
    """The record as it is on disk; see ``observe`` for the truth.

    Raises:
        UsageError: there is no TD of that name.
        SystemFault: the record cannot be read or is none.
    """
    path = Place(name).record
    try:
        values = json.loads(path.read_bytes())
        if values["schema"] != SCHEMA:
            raise SystemFault(f"{path} is {values['schema']}, not {SCHEMA}", hint="use the tdxctl that wrote it")
        return TdRecord.from_mapping(values)
    except FileNotFoundError:
        raise UsageError(f"there is no TD {name!r}", hint="tdxctl td list") from None
    except (OSError, ValueError, KeyError, TypeError, UsageError) as error:
        raise SystemFault(f"cannot read {path}: {error}", hint=f"tdxctl td delete {name}") from error


def save(record: TdRecord) -> None:
    """Write the record; it is on disk when this returns."""
    text = json.dumps(record.to_mapping(), indent=2) + "\n"
    write_atomic(record.place.record, text, mode=0o600)

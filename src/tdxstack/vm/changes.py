"""What changes a TD besides starting and stopping: save, snapshots, clones, settings, reboots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tdxstack.errors import StateError, TdxStackError, UsageError
from tdxstack.vm import lifecycle, saved
from tdxstack.vm import record as records
from tdxstack.vm.control import ControlClient
from tdxstack.vm.lifecycle import ANSWER_MARGIN, exclusively
from tdxstack.vm.record import OVERLAY, TdRecord
from tdxstack.vm.sites import site_of
from tdxstack.vm.spec import TdSpec
from tdxstack.vm.spec_rules import checked
from tdxstack.vm.state import ACTIVE, STARTABLE, State
from tdxstack.vm.supervision import Progress

SAVE_TIMEOUT = 600.0
REBOOT_MODES = ("auto", "acpi", "agent", "force")


def save(name: str) -> TdRecord:
    """Take a TD to disk and end it; its next start goes on from there."""
    with ControlClient(name, "save") as client:
        client.call("save", timeout=SAVE_TIMEOUT)
    return lifecycle.settled(name)


def snapshot_create(name: str, label: str) -> None:
    """Take a running TD and its disk to a snapshot; it goes on afterwards."""
    with ControlClient(name, "take a snapshot") as client:
        client.call("snapshot", {"label": label}, timeout=SAVE_TIMEOUT)


def snapshot_revert(name: str, label: str) -> TdRecord:
    """Make a stopped TD's next start go on from a snapshot.

    Raises:
        StateError: it runs.
    """
    with exclusively(name, "revert", STARTABLE) as record:
        saved.revert(name, label)
        if record.state is not State.SAVED:
            records.save(record.moved(State.SAVED))
        return records.load(name)


def snapshot_delete(name: str, label: str) -> None:
    """Forget a snapshot."""
    one = saved.snapshot(name, label)
    if not one.exists():
        raise UsageError(f"TD {name} has no snapshot {label!r}", hint=f"tdxctl td snapshot list {name}")
    one.discard()


def clone(name: str, new_name: str) -> TdRecord:
    """Define a second TD with the settings and the disk of a stopped one; addresses and ports are its own.

    Raises:
        StateError: it runs, or writes to its image itself.
    """
    with exclusively(name, "clone", STARTABLE - {State.SAVED}) as record:
        if record.spec.image is not None and not record.spec.overlay:
            raise StateError(
                f"TD {name}", "clone", "writing to its image itself", "overlay = true",
                hint=f"tdxctl td set {name} --overlay, or copy the image and tdxctl td create {new_name}",
            )  # fmt: skip
        spec = TdSpec.from_mapping({**record.spec.to_mapping(), "name": new_name})
        ports = tuple(replace(port, host=0) for port in spec.ports)
        copy = lifecycle.create(replace(spec, mac=None, ssh_port=0, vsock_cid=0, ports=ports))
        try:
            site = site_of(record.spec)
            overlay = site.directory(name) / OVERLAY
            if site.exists(overlay):
                site.make_directory(site.directory(new_name))
                site.copy(overlay, site.directory(new_name) / OVERLAY)
        except BaseException:
            lifecycle.delete(new_name)
            raise
        return copy


def change(name: str, values: Mapping[str, Any]) -> TdRecord:
    """Change settings of a stopped TD, as TOML would hold them; None sets a setting back to its default.

    Raises:
        StateError: it runs or is saved: a machine keeps the shape it has.
        UsageError: a bad value, settings that contradict each other, or another name.
    """
    if values.get("name", name) != name:
        raise UsageError("a TD's name cannot be changed", hint=f"tdxctl td clone {name} NEW-NAME")
    with exclusively(name, "change its settings", STARTABLE - {State.SAVED}) as record:
        merged = {**record.spec.to_mapping(), **values}
        spec = checked(TdSpec.from_mapping({key: value for key, value in merged.items() if value is not None}))
        site, old_site = site_of(spec), site_of(record.spec)
        site.check(spec)
        moves = spec.image != record.spec.image or site.key != old_site.key
        if moves and old_site.exists(old_site.directory(name) / OVERLAY):
            raise StateError(
                f"TD {name}",
                "change its image or its host",
                "holding an overlay of the old one",
                "a fresh TD",
                hint="tdxctl td create",
            )
        # Why a start was refused may no longer be true.
        reason = record.reason if record.state is State.FAILED else None
        changed = lifecycle.define_anew(record, replace(record, spec=spec, reason=reason))
        records.save(changed)
        return changed


def reboot(
    name: str, mode: str = "auto", *, timeout: float = lifecycle.STOP_TIMEOUT, progress: Progress | None = None
) -> TdRecord:
    """Reboot: ``auto`` and ``acpi`` power off and start, ``agent`` asks the guest, ``force`` resets the machine.

    Returns when the machine runs again where it was powered off, and when the reset is under way for the others.
    """
    if mode not in REBOOT_MODES:
        raise UsageError(f"{mode!r} is no way to reboot a TD", hint=f"one of {', '.join(REBOOT_MODES)}")
    if mode in ("auto", "acpi"):
        lifecycle.stop(name, mode, timeout=timeout)
        return lifecycle.start(name, progress=progress)
    if mode == "agent":
        lifecycle.call_guest(name, "reboot", timeout=timeout)
        return lifecycle.status(name)
    with ControlClient(name, "reset") as client:
        client.call("reset", timeout=ANSWER_MARGIN)
    return lifecycle.status(name)


def to_start() -> list[str]:
    """TDs that are marked ``autostart`` and do not run."""
    return [one.name for one in lifecycle.list_all() if one.spec.autostart and one.state not in ACTIVE]


def start_all(progress: Progress | None = None) -> dict[str, str]:
    """Start every TD that is marked ``autostart`` and does not run: name -> ``running``, or what went wrong."""
    outcome = {}
    for name in to_start():
        try:
            outcome[name] = lifecycle.start(name, progress=progress).state.value
        except TdxStackError as error:
            outcome[name] = str(error)
    return outcome

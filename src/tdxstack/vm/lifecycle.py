"""What can be done with a TD, as Python: define, start, ask, stop, forget. ``tdxctl td`` is a thin layer over it.

Imports here stay light: `td list` must not pay for what `td start` needs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import IO, Any

from tdxstack.errors import LockHeld, SystemFault, TdxStackError, UsageError
from tdxstack.system import paths
from tdxstack.system.files import locked, private_directory, take_lock
from tdxstack.system.interrupts import held_back
from tdxstack.vm import record as records
from tdxstack.vm.control import ControlClient
from tdxstack.vm.observation import observe
from tdxstack.vm.record import TdRecord
from tdxstack.vm.saved import saved_state
from tdxstack.vm.sites import site_of
from tdxstack.vm.spec import TdSpec, Via
from tdxstack.vm.state import ACTIVE, STARTABLE, State, require
from tdxstack.vm.supervision import Progress, await_report, spawn_supervisor

LOCK_PATIENCE = 5.0
READY_TIMEOUT = 300.0
STOP_TIMEOUT = 60.0
CALL_TIMEOUT = 120.0
#: Longer than any step of an orderly end inside the supervisor.
ANSWER_MARGIN = 30.0
INTERRUPT_PATIENCE = 20.0


def create(spec: TdSpec) -> TdRecord:
    """Define a TD; nothing is started.

    Raises:
        UsageError: bad settings, missing files, or a TD of that name exists.
    """
    from tdxstack.vm.spec_rules import checked

    checked(spec)
    site_of(spec).check(spec)
    place = records.Place(spec.name)
    with locked(paths.tds() / ".lock"):
        if place.record.exists():
            raise UsageError(f"TD {spec.name} exists", hint=f"tdxctl td delete {spec.name}, or take another name")
        existed = place.directory.exists()
        private_directory(place.directory)
        record = TdRecord(spec=spec, since=records.now(), created=records.now())
        try:
            records.save(record)
            if _is_kept_by_libvirt(record):
                return define_anew(record, record)
        except BaseException:
            if not existed:
                shutil.rmtree(place.directory, ignore_errors=True)
            else:
                place.record.unlink(missing_ok=True)
            raise
    return record


def define_anew(before: TdRecord, record: TdRecord) -> TdRecord:
    """Let libvirt's definition follow a TD's changed settings; the TD is at rest, its lock held."""
    if _is_kept_by_libvirt(before) and (
        not _is_kept_by_libvirt(record) or before.spec.connect != record.spec.connect
    ):
        _domain_definition().undefine(before)
    if _is_kept_by_libvirt(record):
        defined: TdRecord = _domain_definition().define(record)
        return defined
    return record


def _is_kept_by_libvirt(record: TdRecord) -> bool:
    return record.spec.via is Via.LIBVIRT and not record.spec.transient


def _domain_definition() -> ModuleType:
    from tdxstack.vm import domain_definition

    return domain_definition


def status(name: str) -> TdRecord:
    """The TD's record, true at this moment."""
    return observe(name)


def list_all() -> list[TdRecord]:
    """All TDs of this home, by name; a record that cannot be read is shown as failed with the reason."""
    found = []
    known: dict[str, Any] = {}
    for name in records.names():
        try:
            found.append(observe(name, known))
        except UsageError:
            continue
        except SystemFault as error:
            found.append(TdRecord(spec=TdSpec(name=name), state=State.FAILED, reason=error.message))
    return found


def start(name: str, *, progress: Progress | None = None, discard_saved: bool = False) -> TdRecord:
    """Start a TD and return when its machine runs (its guest is then booting; see ``wait_ready``).

    A saved TD goes on where it was saved, unless ``discard_saved``. An interrupt (KeyboardInterrupt) during the start
    takes everything down again before it is raised.

    Raises:
        StateError: it runs already.
        TdxStackError: what kept it from starting, as its supervisor said.
    """
    record = observe(name)
    hint = f"tdxctl td show {name}" if record.state in ACTIVE else None
    require(name, "start", record.state, STARTABLE, hint)
    pid = None
    try:
        with held_back():
            pid, report = _launch(record, discard_saved)
        with report:
            return await_report(record, report, progress)
    except KeyboardInterrupt:
        if pid is not None:
            _interrupt(name, pid)
        raise


def _launch(record: TdRecord, discard_saved: bool) -> tuple[int, IO[bytes]]:
    """Start the supervisor; its process id, and the pipe through which it reports."""
    lock = _lock(record)
    try:
        record = records.load(record.name)
        require(record.name, "start", record.state, STARTABLE)
        before = record.state
        if discard_saved:
            saved_state(record.name).discard()
            before = State.STOPPED if before is State.SAVED else before
        records.save(record.moved(State.STARTING))
        pid, reading = spawn_supervisor(record, lock, f"--before={before}")
        return pid, os.fdopen(reading, "rb")
    finally:
        os.close(lock)


def _lock(record: TdRecord) -> int:
    """The TD's lock; its last supervisor may need a moment to let go."""
    deadline = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            return take_lock(record.place.lock, wait=False, hint=f"tdxctl td show {record.name}")
        except LockHeld:
            if time.monotonic() > deadline:
                raise
            require(record.name, "start", records.load(record.name).state, STARTABLE)
            time.sleep(0.05)


def _interrupt(name: str, pid: int) -> None:
    """End a start that is under way, and wait until its supervisor has cleaned up."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + INTERRUPT_PATIENCE
    while observe(name).state in ACTIVE:
        if time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            return
        time.sleep(0.05)


def wait_ready(name: str, timeout: float = READY_TIMEOUT) -> dict[str, Any]:
    """Wait until the guest's agent reports, and return its greeting (``version``, ``platform``).

    Raises:
        TdxStackError: it did not within ``timeout`` seconds, or the TD ended before.
    """
    with ControlClient(name, "wait for its agent") as client:
        answer: dict[str, Any] = client.call("wait_ready", {"timeout": timeout}, timeout=timeout + ANSWER_MARGIN)
        return answer


def call_guest(
    name: str, method: str, params: Mapping[str, Any] | None = None, *, timeout: float = CALL_TIMEOUT
) -> Any:
    """The guest agent's answer to ``method``, e.g. ``quote`` with ``report_data``."""
    with ControlClient(name, f"ask its agent for {method}") as client:
        request = {"method": method, "params": dict(params or {}), "timeout": timeout}
        return client.call("guest", request, timeout=timeout + ANSWER_MARGIN)


def registers(name: str) -> dict[str, str]:
    """``mrtd`` and ``rtmr0`` .. ``rtmr3`` in hex, as far as the platform can tell from outside."""
    with ControlClient(name, "read its registers") as client:
        answer: dict[str, str] = client.call("registers")
        return answer


def stop(name: str, mode: str = "auto", *, timeout: float = STOP_TIMEOUT) -> TdRecord:
    """Stop a TD: ``auto`` (the agent if it has reported, else the power button), ``acpi`` (power button), ``agent``,
    ``force`` (at once).

    Raises:
        StateError: it does not run.
        TdxStackError: it did not power off within ``timeout`` seconds; it runs on then.
    """
    if mode not in STOP_MODES:
        raise UsageError(f"{mode!r} is no way to stop a TD", hint=f"one of {', '.join(STOP_MODES)}")
    with ControlClient(name, "stop") as client:
        client.call("stop", {"mode": mode, "timeout": timeout}, timeout=timeout + ANSWER_MARGIN)
    return settled(name)


STOP_MODES = ("auto", "acpi", "agent", "force")


def suspend(name: str) -> TdRecord:
    """Halt the TD's CPUs."""
    with ControlClient(name, "suspend") as client:
        client.call("suspend")
    return status(name)


def resume(name: str) -> TdRecord:
    """Let the TD's CPUs run again."""
    with ControlClient(name, "resume") as client:
        client.call("resume")
    return status(name)


@contextlib.contextmanager
def exclusively(name: str, operation: str, states: frozenset[State]) -> Iterator[TdRecord]:
    """The record of a TD that nobody can start meanwhile.

    Raises:
        StateError: it is in none of ``states``.
    """
    record = observe(name)
    require(name, operation, record.state, states, hint=_saved_hint(record))
    lock = _lock(record)
    try:
        record = records.load(name)
        require(name, operation, record.state, states, hint=_saved_hint(record))
        yield record
    finally:
        os.close(lock)


def _saved_hint(record: TdRecord) -> str | None:
    return f"tdxctl td start {record.name} --discard-saved" if record.state is State.SAVED else None


def settled(name: str) -> TdRecord:
    """The record once no supervisor holds the TD; a transient TD is gone by then."""
    try:
        os.close(_patiently(records.Place(name).lock, None))
        return observe(name)
    except (UsageError, SystemFault):
        if records.Place(name).record.exists():
            raise
        return TdRecord(spec=TdSpec(name=name), state=State.STOPPED)


def delete(name: str, *, force: bool = False, forget: bool = False) -> None:
    """Forget a TD with its overlay and logs; ``force`` stops it first.

    ``forget`` asks no libvirt and no other host, which may be gone for good: what they keep of it stays there.

    Raises:
        StateError: it runs, and ``force`` was not given.
        SystemFault: its libvirt or its host does not answer.
    """
    place = records.Place(name)
    if not place.directory.exists():
        raise UsageError(f"there is no TD {name!r}", hint="tdxctl td list")
    try:
        record = observe(name)
    except SystemFault:
        record = None
    if record is not None and record.state in ACTIVE:
        if not force:
            require(name, "delete", record.state, STARTABLE)
        with contextlib.suppress(TdxStackError):
            stop(name, "force")
    lock = _patiently(place.lock, f"tdxctl td stop {name} --mode force")
    try:
        if record is not None and not forget:
            _remove_elsewhere(record)
        shutil.rmtree(place.run_dir, ignore_errors=True)
        place.record.unlink(missing_ok=True)
        shutil.rmtree(place.directory)
    except OSError as error:
        raise SystemFault(f"cannot remove {place.directory}: {error}", hint="check its permissions") from error
    finally:
        os.close(lock)


def _remove_elsewhere(record: TdRecord) -> None:
    try:
        if _is_kept_by_libvirt(record):
            _domain_definition().undefine(record)
        site_of(record.spec).forget(record.name)
    except SystemFault as fault:
        hint = f"see that it answers; tdxctl td delete {record.name} --forget asks nobody"
        raise SystemFault(f"TD {record.name} is kept elsewhere too: {fault.message}", hint=hint) from fault


def _patiently(lock: Path, hint: str | None) -> int:
    """A TD's lock, for which its supervisor's last moments are waited."""
    deadline = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            return take_lock(lock, wait=False, hint=hint)
        except LockHeld:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)

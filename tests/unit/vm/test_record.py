from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from tdxstack.errors import StateError, SystemFault, UsageError
from tdxstack.system import paths
from tdxstack.system.files import take_lock
from tdxstack.vm import lifecycle
from tdxstack.vm import record as records
from tdxstack.vm.observation import observe
from tdxstack.vm.record import KILLED, Place, Run, TdRecord
from tdxstack.vm.spec import TdSpec, VmType
from tdxstack.vm.state import ACTIVE, STARTABLE, State, allowed, require


@pytest.fixture
def spec(tmp_path: Path) -> TdSpec:
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(b"kernel")
    return TdSpec(name="demo", kernel=kernel, type=VmType.EFI)


def test_a_record_reads_back(spec: TdSpec) -> None:
    record = lifecycle.create(spec)
    moved = record.moved(State.STARTING, run=Run(mac="52:54:00:00:00:01", ports=("tcp:1:2",), ssh_port=22))
    records.save(moved)
    assert records.load("demo") == moved


def test_every_state_is_active_or_startable() -> None:
    assert set(State) == ACTIVE | STARTABLE
    assert not ACTIVE & STARTABLE


def test_every_startable_state_starts_and_every_active_one_can_fail() -> None:
    assert all(allowed(state, State.STARTING) for state in STARTABLE)
    assert all(allowed(state, State.FAILED) for state in ACTIVE)


def test_illegal_steps_name_both_states(spec: TdSpec) -> None:
    record = TdRecord(spec=spec)
    for state in set(State) - {State.STARTING, State.SAVED}:
        with pytest.raises(StateError, match="while defined") as caught:
            record.moved(state)
        assert caught.value.state == "defined"


def test_an_active_state_without_a_supervisor_is_told_as_failed(spec: TdSpec) -> None:
    lifecycle.create(spec)
    for state in sorted(ACTIVE):
        records.save(TdRecord(spec=spec, state=state))
        assert observe("demo").state is State.FAILED
        assert records.load("demo").reason == KILLED


def test_an_active_state_with_a_supervisor_stands(spec: TdSpec) -> None:
    record = lifecycle.create(spec)
    records.save(TdRecord(spec=spec, state=State.RUNNING))
    lock = take_lock(record.place.lock)
    try:
        assert observe("demo").state is State.RUNNING
    finally:
        os.close(lock)


def test_a_name_is_taken_once(spec: TdSpec) -> None:
    lifecycle.create(spec)
    with pytest.raises(UsageError, match="TD demo exists"):
        lifecycle.create(spec)


def test_no_half_definition_remains_when_the_disk_refuses(spec: TdSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(record: TdRecord) -> None:
        raise SystemFault("no space")

    monkeypatch.setattr(records, "save", refuse)
    with pytest.raises(SystemFault, match="no space"):
        lifecycle.create(spec)
    assert not Place("demo").directory.exists()


def test_a_broken_record_is_shown_and_can_be_deleted(spec: TdSpec) -> None:
    lifecycle.create(spec)
    Place("demo").record.write_text("{")
    (found,) = lifecycle.list_all()
    assert found.state is State.FAILED
    assert "cannot read" in (found.reason or "")
    lifecycle.delete("demo")
    assert lifecycle.list_all() == []


def test_what_does_not_exist() -> None:
    for call in (lifecycle.status, lifecycle.start, lifecycle.delete):
        with pytest.raises(UsageError, match="there is no TD 'nobody'"):
            call("nobody")


def test_start_of_a_running_td_is_refused(spec: TdSpec) -> None:
    record = lifecycle.create(spec)
    records.save(TdRecord(spec=spec, state=State.RUNNING))
    lock = take_lock(record.place.lock)
    try:
        with pytest.raises(StateError, match="cannot start while running"):
            lifecycle.start("demo")
        with pytest.raises(StateError, match="cannot delete while running"):
            lifecycle.delete("demo")
    finally:
        os.close(lock)


def test_a_run_directory_that_no_socket_fits_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TDXSTACK_RUNTIME", str(tmp_path / ("x" * 80)))
    with pytest.raises(SystemFault, match="too long for a Unix socket"):
        Place("demo").make_run_dir()


def test_names_are_sorted(spec: TdSpec) -> None:
    for name in ("b", "a"):
        lifecycle.create(TdSpec(name=name, kernel=spec.kernel, type=VmType.EFI))
    assert records.names() == ["a", "b"]
    assert all((paths.tds() / name).stat().st_mode & 0o077 == 0 for name in records.names())


def test_the_table_of_steps_is_closed() -> None:
    for one, other in itertools.product(State, State):
        assert allowed(one, other) in (True, False)


@pytest.mark.parametrize(
    ("present", "needed", "verb"),
    [
        (State.PAUSED, {State.RUNNING}, "resume"),
        (State.RUNNING, {State.PAUSED}, "suspend"),
        (State.RUNNING, STARTABLE, "stop"),
        (State.STOPPED, {State.RUNNING, State.PAUSED}, "start"),
        (State.STARTING, {State.RUNNING}, "show"),
    ],
)
def test_an_illegal_call_says_the_way(present: State, needed: frozenset[State], verb: str) -> None:
    with pytest.raises(StateError) as caught:
        require("demo", "do it", present, frozenset(needed))
    assert caught.value.hint == f"tdxctl td {verb} demo"

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from tdxstack.cli.main import main
from tdxstack.errors import PlatformMissing, StateError, UsageError
from tdxstack.platform.base import TdParameters
from tdxstack.platform.linux_host import HardwareTdSession
from tdxstack.vm import changes, lifecycle, saved
from tdxstack.vm import record as records
from tdxstack.vm.restoring import require_savable
from tdxstack.vm.saved import Saved
from tdxstack.vm.session import PlainSession
from tdxstack.vm.spec import TdSpec, VmType
from tdxstack.vm.state import State


@pytest.fixture
def spec(tmp_path: Path) -> TdSpec:
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(b"kernel")
    spec = TdSpec(name="demo", kernel=kernel, type=VmType.EFI)
    lifecycle.create(spec)
    return spec


def _publish(target: Saved, spec: TdSpec) -> None:
    target.directory.parent.mkdir(exist_ok=True)
    unfinished = target.begin()
    unfinished.memory.write_bytes(b"memory")
    unfinished.publish(target, {"spec": spec.to_mapping(), "paused": False, "session": ""})


def test_a_state_is_there_once_it_is_whole(spec: TdSpec) -> None:
    target = saved.saved_state("demo")
    unfinished = target.begin()
    unfinished.memory.write_bytes(b"half")
    assert not target.exists()
    _publish(target, spec)
    assert target.exists()
    assert target.memory.read_bytes() == b"memory"
    target.discard()
    assert not target.directory.exists()


def test_another_machine_is_refused(spec: TdSpec) -> None:
    target = saved.saved_state("demo")
    _publish(target, spec)
    saved.check_same_machine(spec, target.facts())
    with pytest.raises(StateError, match=r"\(memory, vcpus changed\)") as caught:
        saved.check_same_machine(
            TdSpec(name="demo", kernel=spec.kernel, type=VmType.EFI, memory=1 << 30, vcpus=2), target.facts()
        )
    assert caught.value.hint == (
        "tdxctl td set demo --unset vcpus --unset memory, or tdxctl td start demo --discard-saved"
    )


@pytest.mark.processes
def test_a_snapshot_of_another_shape_is_refused_before_the_disk_is_touched(spec: TdSpec) -> None:
    """The hint is a command that sets everything back, whatever kind of setting it is."""
    shaped = {"memory": "1G", "overlay": False, "ports": ["8080:80", "udp:53:53"], "cmdline": "a b"}
    changes.change("demo", shaped)
    _publish(saved.snapshot("demo", "one"), records.load("demo").spec)
    changes.change("demo", dict.fromkeys(shaped))
    with pytest.raises(StateError, match="revert to one") as caught:
        changes.snapshot_revert("demo", "one")
    assert lifecycle.status("demo").state is State.DEFINED
    assert not saved.saved_state("demo").exists()
    assert main(shlex.split(caught.value.hint or "")[1:]) == 0
    assert changes.snapshot_revert("demo", "one").state is State.SAVED


@pytest.mark.parametrize("label", ["", "../x", "a/b", ".hidden"])
def test_names_of_snapshots(label: str) -> None:
    with pytest.raises(UsageError, match="not a name for a snapshot"):
        saved.snapshot("demo", label)


@pytest.mark.processes
def test_reverting_makes_a_stopped_td_a_saved_one(spec: TdSpec) -> None:
    with pytest.raises(UsageError, match="has no snapshot 'one'"):
        changes.snapshot_revert("demo", "one")
    _publish(saved.snapshot("demo", "one"), spec)
    assert changes.snapshot_revert("demo", "one").state is State.SAVED
    assert saved.saved_state("demo").exists()
    assert saved.snapshot("demo", "one").exists()


def test_settings_change_only_at_rest(spec: TdSpec) -> None:
    assert changes.change("demo", {"memory": "1G"}).spec.memory == 1 << 30
    assert changes.change("demo", {"memory": None}).spec.memory == 2 << 30
    with pytest.raises(UsageError, match="vcpus"):
        changes.change("demo", {"vcpus": 0})
    with pytest.raises(UsageError, match="name cannot be changed"):
        changes.change("demo", {"name": "other"})
    records.save(records.load("demo").moved(State.SAVED))
    with pytest.raises(StateError, match="while saved"):
        changes.change("demo", {"memory": "1G"})


def test_a_change_forgets_why_a_start_was_refused(spec: TdSpec) -> None:
    for state, kept in ((State.DEFINED, None), (State.FAILED, "no such port")):
        records.save(replace(records.load("demo"), state=state, reason="no such port"))
        assert changes.change("demo", {"memory": "1G"}).reason == kept
        assert records.load("demo").reason == kept


def test_a_clone_has_addresses_of_its_own(spec: TdSpec) -> None:
    changes.change("demo", {"mac": "52:54:00:00:00:09", "ssh_port": 4022, "ports": ["8080:80"]})
    copy = changes.clone("demo", "copy")
    assert (copy.spec.mac, copy.spec.ssh_port, copy.spec.ports[0].host) == (None, 0, 0)
    assert copy.spec.kernel == spec.kernel
    with pytest.raises(UsageError, match="TD copy exists"):
        changes.clone("demo", "copy")


def test_hardware_cannot_save() -> None:
    with pytest.raises(PlatformMissing, match="cannot save a TD's state"):
        require_savable(HardwareTdSession(TdParameters(memory_bytes=1 << 30)), TdSpec(name="demo", platform="tdx"))
    require_savable(PlainSession(), TdSpec(name="demo"))

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tdxstack.errors import SystemFault
from tdxstack.system.files import take_lock
from tdxstack.vm import allocation, lifecycle
from tdxstack.vm import record as records
from tdxstack.vm.network import PortForward
from tdxstack.vm.record import Run, TdRecord
from tdxstack.vm.spec import TdSpec, VmType
from tdxstack.vm.state import State


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    path = tmp_path / "vmlinuz"
    path.write_bytes(b"kernel")
    return path


def _record(kernel: Path, name: str = "demo", **settings: object) -> TdRecord:
    return TdRecord(spec=TdSpec(name=name, kernel=kernel, type=VmType.EFI, **settings))  # type: ignore[arg-type]


@pytest.fixture
def busy() -> Iterator[int]:
    """A port that a listener has."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        yield listener.getsockname()[1]


def test_a_port_in_use_is_named(kernel: Path, busy: int) -> None:
    with pytest.raises(SystemFault, match=f"tcp port {busy} of 127.0.0.1 is in use") as caught:
        allocation.fill(_record(kernel, ssh_port=busy), Run())
    assert caught.value.hint


def test_a_free_port_is_chosen_past_one_in_use(kernel: Path, busy: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation, "FIRST_PORT", busy)
    monkeypatch.setattr(allocation, "LAST_PORT", 65535)
    run = allocation.fill(_record(kernel, ports=(PortForward("udp", 0, 53),)), Run())
    assert run.ssh_port is not None
    assert run.ssh_port > busy
    assert run.ports[0].split(":")[1] != str(run.ssh_port)


def test_what_a_starting_td_has_recorded_is_taken(kernel: Path) -> None:
    first = allocation.fill(_record(kernel, "first", vsock=True), Run())
    other = lifecycle.create(_record(kernel, "first", vsock=True).spec)
    records.save(TdRecord(spec=other.spec, state=State.STARTING, run=first))
    lock = take_lock(other.place.lock)
    try:
        second = allocation.fill(_record(kernel, "second", vsock=True), Run())
    finally:
        os.close(lock)
    assert second.ssh_port != first.ssh_port
    assert second.vsock_cid != first.vsock_cid
    assert second.mac != first.mac


def test_a_killed_td_keeps_nothing(kernel: Path) -> None:
    other = lifecycle.create(_record(kernel, "first").spec)
    first = allocation.fill(other, Run())
    records.save(TdRecord(spec=other.spec, state=State.RUNNING, run=first))
    assert allocation.fill(_record(kernel, "second"), Run()).ssh_port == first.ssh_port


def test_ports_and_addresses_stay_from_run_to_run(kernel: Path) -> None:
    record = _record(kernel)
    first = allocation.fill(record, Run())
    again = allocation.fill(TdRecord(spec=record.spec, run=first), Run())
    assert (again.ssh_port, again.mac) == (first.ssh_port, first.mac)


def test_addresses_avoid_those_taken() -> None:
    address = allocation.mac_address("demo")
    assert allocation.mac_address("demo", frozenset({address})) != address


def test_no_forwards_without_user_network(kernel: Path) -> None:
    run = allocation.fill(_record(kernel, network="none"), Run())
    assert run.ssh_port is None

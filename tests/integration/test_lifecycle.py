"""TDs that really boot, and what happens when parts of them die."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from td_home import (
    BOOT_TIMEOUT,
    Define,
    PortTaker,
    define,
    gone,
    home,
    processes,
    small_disk,
    taken_up_on_another_port,
    until,
)
from tdxstack.errors import StateError, SystemFault, UsageError
from tdxstack.vm import changes, events, lifecycle, saved, waiting
from tdxstack.vm.error_document import RemoteError
from tdxstack.vm.record import Place, TdRecord
from tdxstack.vm.spec import Accelerator, VmType
from tdxstack.vm.state import State
from tiny_guest import TinyGuest, tiny_guest

__all__ = ["define", "home", "small_disk", "tiny_guest"]
pytestmark = pytest.mark.integration


def test_from_definition_to_deletion(define: Define) -> None:
    define()
    steps: list[str] = []
    record = lifecycle.start("demo", progress=steps.append)
    assert record.state is State.RUNNING
    assert steps
    assert lifecycle.wait_ready("demo", BOOT_TIMEOUT)["version"] == "tiny"
    assert [(td.name, td.state) for td in lifecycle.list_all()] == [("demo", State.RUNNING)]
    assert lifecycle.call_guest("demo", "ping") == {"pong": True}
    assert "tiny guest: ready" in record.place.console_log.read_text(errors="replace")
    _echo(record)
    _registers_move()

    assert lifecycle.suspend("demo").state is State.PAUSED
    with pytest.raises(RemoteError, match="did not answer ping"):
        lifecycle.call_guest("demo", "ping", timeout=0.3)
    with pytest.raises(RemoteError, match="cannot suspend while paused"):
        lifecycle.suspend("demo")
    assert lifecycle.resume("demo").state is State.RUNNING

    with pytest.raises(StateError, match="cannot start while running"):
        lifecycle.start("demo")
    with pytest.raises(StateError, match="cannot delete while running"):
        lifecycle.delete("demo")

    lifecycle.call_guest("demo", "reboot")
    _rebooted("demo")
    assert lifecycle.stop("demo").state is State.STOPPED
    gone(record)
    assert not record.place.run_dir.exists()
    with pytest.raises(StateError, match="while stopped"):
        lifecycle.stop("demo")

    again = lifecycle.start("demo")
    assert (again.run.ssh_port, again.run.mac) == (record.run.ssh_port, record.run.mac)
    assert lifecycle.stop("demo", "force").state is State.STOPPED
    lifecycle.delete("demo")
    assert lifecycle.list_all() == []
    assert not record.place.directory.exists()


def _echo(record: TdRecord) -> None:
    assert record.run.ssh_port is not None
    with socket.create_connection(("127.0.0.1", record.run.ssh_port), timeout=30) as connection:
        connection.sendall(b"hello\n")
        assert connection.recv(6) == b"hello\n"
    assert not waiting.ssh_answers(record), "an echo is no sshd"


def _registers_move() -> None:
    registers = lifecycle.registers("demo")
    assert len(registers["mrtd"]) == 96
    assert {registers[f"rtmr{index}"] for index in range(3)}.isdisjoint({"00" * 48})


def _rebooted(name: str) -> None:
    deadline = time.monotonic() + BOOT_TIMEOUT
    while lifecycle.status(name).run.boots != 1:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    lifecycle.wait_ready(name, BOOT_TIMEOUT)
    assert lifecycle.call_guest(name, "ping") == {"pong": True}


@pytest.mark.parametrize(
    ("victim", "reason"),
    [("qemu", "QEMU was killed by SIGKILL"), ("supervisor", "its supervisor was killed"), ("swtpm", "swtpm")],
)
def test_kill_9(define: Define, victim: str, reason: str) -> None:
    define()
    record = lifecycle.start("demo")
    pids = {"qemu": record.run.qemu_pid, "supervisor": record.run.supervisor_pid}
    if victim == "swtpm":
        (line,) = [line for line in processes(record.place.run_dir) if "swtpm socket" in line]
        pids["swtpm"] = int(line.split(":")[0])
    os.kill(pids[victim], signal.SIGKILL)
    failed = until("demo", State.FAILED)
    assert reason in (failed.reason or "")
    gone(record)
    assert lifecycle.start("demo").state is State.RUNNING
    assert lifecycle.stop("demo", "force").state is State.STOPPED


def test_sigterm_to_the_supervisor_is_an_orderly_end(define: Define) -> None:
    define()
    record = lifecycle.start("demo")
    os.kill(record.run.supervisor_pid, signal.SIGTERM)
    assert until("demo", State.STOPPED, State.FAILED).state is State.STOPPED
    gone(record)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_start_leaves_nothing(define: Define, number: signal.Signals) -> None:
    define()
    argv = [sys.executable, "-m", "tdxstack.cli", "td", "start", "demo"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    with subprocess.Popen(argv, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as start:
        assert start.stderr is not None
        assert b"==>" in start.stderr.readline()
        start.send_signal(number)
        start.wait(60)
        said = start.stderr.read().decode()
    record = lifecycle.status("demo")
    assert (start.returncode, record.state) == (130, State.STOPPED), said
    assert record.reason == "the start was interrupted"
    gone(record)


def test_a_port_in_use(define: Define) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        define(ssh_port=listener.getsockname()[1])
        with pytest.raises(RemoteError, match="is in use") as caught:
            lifecycle.start("demo")
    assert "ss -lntup" in (caught.value.hint or "")
    record = lifecycle.status("demo")
    assert record.state is State.DEFINED, "what was refused was never started"
    assert "is in use" in (record.reason or "")
    gone(record)
    started = lifecycle.start("demo")
    assert (started.state, started.reason) == (State.RUNNING, None)


def test_a_refused_start_leaves_a_saved_td_saved(define: Define, tiny_guest: TinyGuest, tmp_path: Path) -> None:
    """What it was saved with is still there; without it, it is a stopped one."""
    kernel = tmp_path / "vmlinuz"
    shutil.copy(tiny_guest.kernel, kernel)
    define(type=VmType.EFI, kernel=kernel)
    lifecycle.start("demo")
    lifecycle.suspend("demo")
    changes.save("demo")
    kernel.unlink()
    with pytest.raises(RemoteError, match="No such file"):
        lifecycle.start("demo")
    assert lifecycle.status("demo").state is State.SAVED
    assert saved.saved_state("demo").exists()
    with pytest.raises(RemoteError, match="No such file"):
        lifecycle.start("demo", discard_saved=True)
    assert lifecycle.status("demo").state is State.STOPPED
    assert not saved.saved_state("demo").exists()
    shutil.copy(tiny_guest.kernel, kernel)
    assert lifecycle.start("demo").state is State.RUNNING


def test_files_that_are_missing_or_wrong(define: Define, tiny_guest: TinyGuest, tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinuz"
    shutil.copy(tiny_guest.kernel, kernel)
    define(kernel=kernel)
    kernel.unlink()
    with pytest.raises(RemoteError, match=f"kernel {kernel}: No such file"):
        lifecycle.start("demo")
    assert lifecycle.status("demo").state is State.DEFINED
    kernel.write_bytes(b"")
    with pytest.raises(RemoteError, match="QEMU ended with status 1") as caught:
        lifecycle.start("demo")
    assert "tdxctl td logs demo --qemu" in (caught.value.hint or "")
    assert lifecycle.status("demo").state is State.FAILED
    gone(lifecycle.status("demo"))
    firmware = tmp_path / "OVMF.fd"
    firmware.write_bytes(bytes(4 << 20))
    define("other", firmware=firmware)
    with pytest.raises(RemoteError, match="TDVF"):
        lifecycle.start("other")
    with pytest.raises(UsageError, match="no-such-image"):
        define("third", image=Path("/no-such-image"))


def test_a_full_disk(define: Define, small_disk: Callable[[Path, str], None]) -> None:
    define(type=VmType.EFI)
    place = Place("demo").directory
    small_disk(place, "256k")
    filler = place / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as stream:
        while stream.write(bytes(4096)):
            pass
    with pytest.raises(SystemFault, match="No space left") as caught:
        lifecycle.start("demo")
    assert "free space" in (caught.value.hint or "")
    assert lifecycle.status("demo").state is State.DEFINED
    filler.unlink()
    assert lifecycle.start("demo").state is State.RUNNING
    lifecycle.stop("demo", "force")


def test_four_at_once(define: Define) -> None:
    names = ["one", "two", "three", "four"]
    for name in names:
        define(name)
    started = [lifecycle.start(name) for name in names]
    assert len({record.run.ssh_port for record in started}) == 4
    assert len({record.run.mac for record in started}) == 4
    for name in names:
        lifecycle.wait_ready(name, 2 * BOOT_TIMEOUT)
    registers = [lifecycle.registers(name) for name in names]
    assert all(one == registers[0] for one in registers), "the same files give the same registers"
    for record in started:
        _echo(record)
    assert all(lifecycle.stop(name, "force").state is State.STOPPED for name in names)


def test_two_starts_at_the_same_time(define: Define) -> None:
    define()
    argv = [sys.executable, "-m", "tdxstack.cli", "td", "start", "demo"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    both = [subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE) for _ in range(2)]
    said = [process.communicate(timeout=60)[1].decode() for process in both]
    assert sorted(process.returncode for process in both) == [0, 1], said
    assert lifecycle.status("demo").state is State.RUNNING


def test_a_transient_td_is_forgotten(define: Define) -> None:
    define(transient=True, type=VmType.EFI)
    lifecycle.start("demo")
    lifecycle.stop("demo", "force")
    assert lifecycle.list_all() == []


def test_an_overlay_takes_the_writes(define: Define, tmp_path: Path) -> None:
    image = tmp_path / "disk.raw"
    image.write_bytes(bytes(1 << 20))
    define(image=image)
    record = lifecycle.start("demo")
    assert record.place.overlay.read_bytes()[:4] == b"QFI\xfb"
    lifecycle.stop("demo", "force")
    assert image.read_bytes() == bytes(1 << 20)


@pytest.mark.parametrize("kind", [VmType.EFI, VmType.TD])
def test_save_and_go_on(define: Define, kind: VmType, tmp_path: Path) -> None:
    image = tmp_path / "disk.raw"
    image.write_bytes(bytes(1 << 20))
    define(type=kind, image=image)
    lifecycle.start("demo")
    lifecycle.wait_ready("demo", BOOT_TIMEOUT)
    before = lifecycle.registers("demo")
    record = changes.save("demo")
    assert record.state is State.SAVED
    gone(record)
    with pytest.raises(StateError, match="while saved"):
        changes.change("demo", {"memory": "512M"})

    assert lifecycle.start("demo").state is State.RUNNING
    assert lifecycle.call_guest("demo", "ping", timeout=60) == {"pong": True}
    assert lifecycle.registers("demo") == before
    assert lifecycle.status("demo").run.boots == 0
    assert not saved.saved_state("demo").exists(), "a state is gone on from once"


def test_a_port_that_is_taken_while_a_state_is_taken_up(define: Define, tmp_path: Path) -> None:
    taker = PortTaker.make(tmp_path)
    define(type=VmType.EFI, qemu=str(taker.program), accelerator=Accelerator.TCG)
    taken_up_on_another_port(taker)


def test_snapshots(define: Define) -> None:
    define(type=VmType.EFI)
    lifecycle.start("demo")
    lifecycle.wait_ready("demo", BOOT_TIMEOUT)
    changes.snapshot_create("demo", "booted")
    with pytest.raises(RemoteError, match="exists"):
        changes.snapshot_create("demo", "booted")
    assert lifecycle.call_guest("demo", "ping") == {"pong": True}
    assert [label for label, _ in saved.snapshots("demo")] == ["booted"]
    with pytest.raises(StateError, match="cannot revert while running"):
        changes.snapshot_revert("demo", "booted")
    lifecycle.stop("demo", "force")
    for _ in range(2):
        assert changes.snapshot_revert("demo", "booted").state is State.SAVED
        lifecycle.start("demo")
        assert lifecycle.call_guest("demo", "ping", timeout=20) == {"pong": True}
        lifecycle.stop("demo", "force")
    changes.snapshot_delete("demo", "booted")
    assert saved.snapshots("demo") == []


def test_a_saved_state_that_does_not_fit(define: Define) -> None:
    define(type=VmType.EFI)
    lifecycle.start("demo")
    changes.save("demo")
    state = saved.saved_state("demo")
    state.memory.write_bytes(state.memory.read_bytes()[:100000])
    with pytest.raises(RemoteError, match="cannot load the machine's state"):
        lifecycle.start("demo")
    record = lifecycle.status("demo")
    assert record.state is State.FAILED
    gone(record)
    assert lifecycle.start("demo", discard_saved=True).state is State.RUNNING


def test_set_clone_and_events(define: Define, tmp_path: Path) -> None:
    image = tmp_path / "disk.raw"
    image.write_bytes(bytes(1 << 20))
    define(type=VmType.EFI, image=image)
    first = lifecycle.start("demo")
    with pytest.raises(StateError, match="while running"):
        changes.change("demo", {"vcpus": 2})
    with pytest.raises(StateError, match="while running"):
        changes.clone("demo", "other")
    lifecycle.stop("demo", "force")
    assert changes.change("demo", {"vcpus": 2}).spec.vcpus == 2
    other = changes.clone("demo", "other")
    assert other.place.overlay.exists()
    second = lifecycle.start("other")
    assert second.run.mac != first.run.mac
    lifecycle.start("demo")
    assert changes.reboot("demo", "force").state is State.RUNNING
    told = events.path("demo").read_text()
    assert '"state": "running"' in told
    assert "SHUTDOWN" in told


def test_a_disk_that_fills_up_while_the_guest_writes(
    define: Define,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_disk: Callable[[Path, str], None],
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    small_disk(small, "6m")
    monkeypatch.setenv("TDXSTACK_HOME", str(small / "home"))
    monkeypatch.setenv("TDXSTACK_CACHE", str(tmp_path / "cache"))
    image = tmp_path / "disk.raw"
    with image.open("wb") as stream:
        stream.truncate(32 << 20)
    define(type=VmType.EFI, image=image)
    lifecycle.start("demo")
    lifecycle.wait_ready("demo", BOOT_TIMEOUT)
    lifecycle.call_guest("demo", "fill")
    assert until("demo", State.PAUSED).reason == "the host's disk is full"
    lifecycle.stop("demo", "force")
    assert lifecycle.status("demo").state is State.STOPPED
    gone(lifecycle.status("demo"))


def test_a_plain_machine_with_a_tpm(define: Define) -> None:
    define(type=VmType.EFI, tpm=True)
    record = lifecycle.start("demo")
    lifecycle.wait_ready("demo", BOOT_TIMEOUT)
    assert (record.place.directory / "tpm").is_dir()
    changes.save("demo")
    assert lifecycle.start("demo").state is State.RUNNING
    assert lifecycle.call_guest("demo", "ping", timeout=20) == {"pong": True}
    (line,) = [line for line in processes(record.place.run_dir) if "swtpm socket" in line]
    os.kill(int(line.split(":")[0]), signal.SIGKILL)
    assert "swtpm" in (until("demo", State.FAILED).reason or "")
    gone(record)

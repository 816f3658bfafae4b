"""``kill -9`` of QEMU and of the supervisor in every state of a TD, and what hangs: the state stays true, nothing
leaks, the error says what to do, and the TD starts again.

A wrapper around QEMU holds a start where the test wants it; a stopped QEMU holds whatever asks it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from td_home import BOOT_TIMEOUT, Define, define, gone, home, small_disk, until
from tdxstack.errors import TdxStackError
from tdxstack.system.process import find
from tdxstack.vm import changes, lifecycle, saved
from tdxstack.vm.record import Place, TdRecord
from tdxstack.vm.spec import Accelerator, VmType
from tdxstack.vm.state import State
from tiny_guest import tiny_guest

__all__ = ["define", "home", "small_disk", "tiny_guest"]
pytestmark = pytest.mark.integration
PATIENCE = 90.0
#: A QEMU that never answers while the file ``held`` is there, in front of the real one.
WRAPPER = """#!/bin/sh
if [ -e "{held}" ]; then case "$*" in *"{word}"*) while :; do sleep 1; done;; esac; fi
exec {qemu} "$@"
"""
VICTIMS = {"qemu": "QEMU was killed by SIGKILL", "supervisor": "its supervisor was killed"}


@dataclass
class Held:
    """A wrapper around QEMU that hangs on demand."""

    program: Path
    flag: Path

    def hold(self) -> None:
        self.flag.touch()

    def let_go(self) -> None:
        self.flag.unlink(missing_ok=True)


@dataclass
class Background:
    """Something that runs meanwhile and must end with an error that has a hint."""

    errors: list[TdxStackError] = field(default_factory=list)

    def run(self, action: Callable[[], object]) -> None:
        try:
            action()
        except TdxStackError as error:
            self.errors.append(error)


@contextmanager
def meanwhile(action: Callable[[], object]) -> Iterator[Background]:
    """Run ``action`` in a thread; it has ended afterwards."""
    background = Background()
    thread = threading.Thread(target=background.run, args=(action,))
    thread.start()
    try:
        yield background
    finally:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "it waits for ever"


def _wrapper(folder: Path, word: str) -> Held:
    held = Held(folder / f"qemu{word}", folder / "held")
    held.program.write_text(WRAPPER.format(held=held.flag, word=word, qemu=find("qemu-system-x86_64")))
    held.program.chmod(0o755)
    return held


def _soon(truth: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not truth():
        assert time.monotonic() < deadline, f"no {what}"
        time.sleep(0.02)


def _qemu_of(record: TdRecord) -> int:
    """The process that was started as QEMU for a TD, whatever it is."""
    needle = str(record.place.run_dir / "qmp.sock").encode()
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if needle in entry.read_bytes():
                return int(entry.parent.name)
        except OSError:
            continue
    return 0


def _kill(record: TdRecord, victim: str) -> None:
    pid = record.run.supervisor_pid if victim == "supervisor" else _qemu_of(record)
    assert pid
    os.kill(pid, signal.SIGKILL)


def _killed(victim: str) -> TdRecord:
    """Kill a part of ``demo``; the record, which says what happened. Nothing of the run is left."""
    record = lifecycle.status("demo")
    _kill(record, victim)
    failed = until("demo", State.FAILED)
    assert VICTIMS[victim] in (failed.reason or "")
    gone(record)
    return failed


def _starts_again() -> None:
    assert lifecycle.start("demo").state is State.RUNNING
    assert lifecycle.stop("demo", "force").state is State.STOPPED


@pytest.mark.parametrize("victim", VICTIMS)
def test_while_it_starts(define: Define, tmp_path: Path, victim: str) -> None:
    held = _wrapper(tmp_path, "-S")
    define(type=VmType.EFI, qemu=str(held.program), accelerator=Accelerator.TCG)
    held.hold()
    with meanwhile(lambda: lifecycle.start("demo")) as start:
        _soon(lambda: _qemu_of(lifecycle.status("demo")), "QEMU")
        assert lifecycle.status("demo").state is State.STARTING
        _killed(victim)
    (error,) = start.errors
    assert "tdxctl td" in (error.hint or "")
    held.let_go()
    _starts_again()


@pytest.mark.parametrize("victim", VICTIMS)
def test_while_it_is_paused(define: Define, victim: str) -> None:
    define(type=VmType.EFI)
    lifecycle.start("demo")
    lifecycle.suspend("demo")
    _killed(victim)
    _starts_again()


@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("what", ["save", "snapshot"])
def test_while_its_state_is_written(define: Define, victim: str, what: str) -> None:
    define(type=VmType.EFI)
    record = lifecycle.start("demo")
    lifecycle.suspend("demo")
    os.kill(record.run.qemu_pid, signal.SIGSTOP)
    folder = record.place.directory / ("snapshots" if what == "snapshot" else ".")
    work = (lambda: changes.save("demo")) if what == "save" else (lambda: changes.snapshot_create("demo", "saved"))
    with meanwhile(work) as writing:
        _soon((folder / ".saved.new").exists, "unfinished state")
        assert lifecycle.status("demo").state is State.PAUSED
        _killed(victim)
    (error,) = writing.errors
    assert "tdxctl td" in (error.hint or "")
    assert not saved.saved_state("demo").exists()
    assert saved.snapshots("demo") == []
    _starts_again()
    assert not (folder / ".saved.new").exists(), "half a state is left"


@pytest.mark.parametrize("victim", VICTIMS)
def test_while_it_stops(define: Define, victim: str) -> None:
    """A guest that does not heed its power button stays ``stopping`` until the time is up."""
    define(type=VmType.EFI)
    lifecycle.start("demo")
    with meanwhile(lambda: lifecycle.stop("demo", "acpi", timeout=20)):
        until("demo", State.STOPPING)
        _killed(victim)
    _starts_again()


@pytest.mark.parametrize("victim", VICTIMS)
def test_while_its_state_is_taken_up(define: Define, tmp_path: Path, victim: str) -> None:
    """The saved state is still there, and the next start goes on from it."""
    held = _wrapper(tmp_path, "-incoming")
    define(type=VmType.EFI, qemu=str(held.program), accelerator=Accelerator.TCG)
    lifecycle.start("demo")
    lifecycle.suspend("demo")
    changes.save("demo")
    held.hold()
    with meanwhile(lambda: lifecycle.start("demo")) as start:
        _soon(lambda: _qemu_of(lifecycle.status("demo")), "QEMU")
        assert lifecycle.status("demo").state is State.STARTING
        _killed(victim)
    assert start.errors
    assert saved.saved_state("demo").exists()
    held.let_go()
    assert lifecycle.start("demo").state is State.PAUSED, "it was paused when it was saved"
    assert not saved.saved_state("demo").exists()


def test_once_it_is_saved(define: Define) -> None:
    """The supervisor dies as soon as the state is whole: it is gone on from, whatever the record says."""
    define(type=VmType.EFI)
    record = lifecycle.start("demo")
    lifecycle.suspend("demo")
    with meanwhile(lambda: changes.save("demo")):
        _soon(saved.saved_state("demo").exists, "saved state")
        os.kill(record.run.supervisor_pid, signal.SIGKILL)
    assert until("demo", State.FAILED, State.SAVED)
    gone(record)
    assert lifecycle.start("demo").state is State.PAUSED
    assert not saved.saved_state("demo").exists()


@pytest.mark.parametrize("victim", VICTIMS)
def test_while_it_is_made_anew(define: Define, tmp_path: Path, victim: str) -> None:
    """A reset where the dialect cannot reset in place: the old machine is gone, the new one not there yet."""
    held = _wrapper(tmp_path, "-S")
    define(type=VmType.EFI, dialect="upstream", qemu=str(held.program), accelerator=Accelerator.TCG)
    first = lifecycle.start("demo")
    held.hold()
    changes.reboot("demo", "force")
    _soon(lambda: _qemu_of(first) not in (0, first.run.qemu_pid), "new QEMU")
    _killed(victim)
    held.let_go()
    _starts_again()


@pytest.mark.parametrize("mode", ["force", "agent"])
def test_a_reset_makes_a_machine_anew(define: Define, mode: str) -> None:
    """QEMU before 11 cannot rebuild a TD: the process ends, and the supervisor starts another on the same ports."""
    define(type=VmType.EFI, dialect="upstream")
    first = lifecycle.start("demo")
    if mode == "agent":
        lifecycle.wait_ready("demo", BOOT_TIMEOUT)
    changes.reboot("demo", mode)
    _soon(lambda: lifecycle.status("demo").run.boots == 1, "second boot")
    record = lifecycle.status("demo")
    assert record.state is State.RUNNING
    assert record.run.qemu_pid != first.run.qemu_pid
    assert (record.run.ssh_port, record.run.mac) == (first.run.ssh_port, first.run.mac)
    lifecycle.wait_ready("demo", BOOT_TIMEOUT)


def test_a_guest_that_hangs(define: Define) -> None:
    """It does not heed the power button and its agent does not answer: each says so in time, and force ends it."""
    define(type=VmType.EFI)
    record = lifecycle.start("demo")
    with pytest.raises(TdxStackError, match=r"did not report within 0\.2 s") as caught:
        lifecycle.wait_ready("demo", 0.2)
    assert "tdxctl td logs" in (caught.value.hint or "")
    with pytest.raises(TdxStackError, match=r"did not answer ping within 0\.2 s") as caught:
        lifecycle.call_guest("demo", "ping", timeout=0.2)
    assert caught.value.hint
    with pytest.raises(TdxStackError, match=r"did not power off within 0\.5 s") as caught:
        lifecycle.stop("demo", timeout=0.5)
    assert caught.value.hint == "tdxctl td stop demo --mode force"
    assert lifecycle.status("demo").state is State.RUNNING
    assert lifecycle.stop("demo", "force").state is State.STOPPED
    gone(record)


def test_a_qemu_that_hangs(define: Define) -> None:
    """A monitor that does not answer keeps nobody waiting for ever, and force ends it."""
    define(type=VmType.EFI)
    record = lifecycle.start("demo")
    os.kill(record.run.qemu_pid, signal.SIGSTOP)
    with pytest.raises(TdxStackError, match=r"did not power off within 0\.5 s"):
        lifecycle.stop("demo", "acpi", timeout=0.5)
    assert lifecycle.status("demo").state is State.RUNNING
    assert lifecycle.stop("demo", "force").state is State.STOPPED
    gone(record)
    _starts_again()


def test_a_second_writer(define: Define, tmp_path: Path) -> None:
    """An image that a TD writes to itself is that TD's alone."""
    image = tmp_path / "disk.raw"
    image.write_bytes(bytes(1 << 20))
    define(type=VmType.EFI, image=image, overlay=False)
    define("other", type=VmType.EFI, image=image, overlay=False)
    define("reader", type=VmType.EFI, image=image)
    lifecycle.start("demo")
    for name in ("other", "reader"):
        with pytest.raises(TdxStackError, match="demo writes to it") as caught:
            lifecycle.start(name)
        assert "tdxctl td stop demo" in (caught.value.hint or "")
        assert lifecycle.status(name).state is State.FAILED
        gone(lifecycle.status(name))
    lifecycle.stop("demo", "force")
    assert lifecycle.start("other").state is State.RUNNING


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"QFI\xfb" + bytes(508), "qcow2"), (b"QFI\xfb\0\0\0\x03" + b"\xff" * 504, "qcow2")],
    ids=["no qcow2", "a damaged qcow2"],
)
def test_a_wrong_image(define: Define, tmp_path: Path, content: bytes, reason: str) -> None:
    image = tmp_path / "disk.qcow2"
    image.write_bytes(content)
    define(type=VmType.EFI, image=image)
    with pytest.raises(TdxStackError, match=reason) as caught:
        lifecycle.start("demo")
    assert str(image) in str(caught.value)
    assert caught.value.hint
    record = lifecycle.status("demo")
    assert record.state is State.DEFINED
    assert not record.place.overlay.exists()
    gone(record)


def test_a_disk_that_is_too_small_for_a_state(define: Define, small_disk: Callable[[Path, str], None]) -> None:
    """Half a state is no state: the TD runs on."""
    define(type=VmType.EFI)
    place = Place("demo").directory
    small_disk(place, "2m")
    lifecycle.start("demo")
    lifecycle.wait_ready("demo", BOOT_TIMEOUT)
    for attempt in (lambda: changes.save("demo"), lambda: changes.snapshot_create("demo", "one")):
        with pytest.raises(TdxStackError, match="No space left") as caught:
            attempt()
        assert "df -h" in (caught.value.hint or "")
        assert lifecycle.status("demo").state is State.RUNNING
        assert lifecycle.call_guest("demo", "ping") == {"pong": True}
    assert not saved.saved_state("demo").exists()
    assert saved.snapshots("demo") == []
    assert not list(place.rglob(".*.new"))
    assert lifecycle.stop("demo", "force").state is State.STOPPED

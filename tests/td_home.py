"""A home of a test's own for TDs, and what the tests on lives of TDs share."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tdxstack.errors import TdxStackError
from tdxstack.system import paths
from tdxstack.vm import changes, lifecycle, saved
from tdxstack.vm.record import TdRecord
from tdxstack.vm.spec import TdSpec
from tdxstack.vm.state import State
from tiny_guest import TinyGuest

Define = Callable[..., TdSpec]

BOOT_TIMEOUT = 300.0
SETTLE_TIMEOUT = 90.0


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of this test's own; whatever still runs in it at the end is ended, and reported as a leak."""
    monkeypatch.setenv("TDXSTACK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TDXSTACK_RUNTIME", f"/tmp/tdxt-{os.getpid()}")  # noqa: S108 - sockets need a short path
    yield tmp_path / "home"
    for record in lifecycle.list_all():
        with contextlib.suppress(TdxStackError):
            lifecycle.delete(record.name, force=True)
    left = processes(paths.runtime())
    shutil.rmtree(f"/tmp/tdxt-{os.getpid()}", ignore_errors=True)  # noqa: S108
    assert not left, f"orphans: {left}"


def small(name: str, guest: TinyGuest) -> TdSpec:
    """A TD of the small guest."""
    return TdSpec(
        name=name,
        kernel=guest.kernel,
        initrd=guest.initrd,
        cmdline=guest.cmdline,
        firmware=guest.firmware,
        memory=256 << 20,
    )


@pytest.fixture
def define(home: Path, tiny_guest: TinyGuest) -> Define:
    """Defines a TD of the small guest; settings may be changed."""

    def make(name: str = "demo", **settings: object) -> TdSpec:
        spec = replace(small(name, tiny_guest), **settings)  # type: ignore[arg-type]
        lifecycle.create(spec)
        return spec

    return make


@pytest.fixture
def small_disk(home: Path) -> Iterator[Callable[[Path, str], None]]:
    """Puts a file system of a size under a folder, whose files stay in it; nothing of the home runs afterwards."""
    mounted: list[Path] = []

    def mount(folder: Path, size: str) -> None:
        kept = {path.name: path.read_bytes() for path in folder.iterdir()}
        argv = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if subprocess.run(argv, check=False, capture_output=True).returncode:
            pytest.skip("no right to mount a small file system")
        mounted.append(folder)
        for name, data in kept.items():
            (folder / name).write_bytes(data)

    yield mount
    for record in lifecycle.list_all():
        with contextlib.suppress(TdxStackError):
            lifecycle.stop(record.name, "force")
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def processes(run_dir: Path) -> list[str]:
    """Command lines of processes that have anything in ``run_dir`` open by name."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(run_dir) in words:
                found.append(f"{entry.parent.name}: {words[:200]}")
    return found


def until(name: str, *states: State) -> TdRecord:
    """The record once the TD is in one of ``states``."""
    deadline = time.monotonic() + SETTLE_TIMEOUT
    while (record := lifecycle.status(name)).state not in states:
        assert time.monotonic() < deadline, f"{name} stays {record.state}"
        time.sleep(0.05)
    return record


def gone(record: TdRecord) -> None:
    """Nothing of the run is left: no process, no socket, and the TD can start again."""
    deadline = time.monotonic() + SETTLE_TIMEOUT
    while left := processes(record.place.run_dir):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


TAKER = """#!{python}
import fcntl, os, re, socket, sys
port = re.search(r"hostfwd=tcp:127[.]0[.]0[.]1:([0-9]+)-:22", " ".join(sys.argv))
if port and os.path.exists("{flag}"):
    try:
        taker = socket.create_server(("127.0.0.1", int(port[1])))
    except OSError:
        sys.exit("qemu: Could not set up host forwarding rule: somebody was faster")
    os.remove("{flag}")
    with open("{taken}", "w") as taken:
        taken.write(port[1])
    if os.fork() == 0:
        os.setsid()
        kept = taker.fileno()
        os.closerange(0, kept)
        os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))
        with open("{held}") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
        os._exit(0)
    taker.close()
os.execv("{qemu}", sys.argv)
"""


@dataclass(frozen=True)
class PortTaker:
    """A QEMU whose port to ssh is taken, once, after it was found free and before QEMU wants it."""

    program: Path
    flag: Path
    held: Path
    taken: Path

    @classmethod
    def make(cls, folder: Path) -> PortTaker:
        taker = cls(*(folder / name for name in ("qemu-port", "take", "held", "taken")))
        qemu = shutil.which("qemu-system-x86_64")
        taker.program.write_text(
            TAKER.format(python=sys.executable, flag=taker.flag, held=taker.held, taken=taker.taken, qemu=qemu)
        )
        taker.program.chmod(0o755)
        taker.held.touch()
        return taker

    @contextlib.contextmanager
    def taking_next(self) -> Iterator[None]:
        """The next start finds its port taken, which stays so within the block."""
        with self.held.open() as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            self.flag.touch()
            yield


def taken_up_on_another_port(taker: PortTaker) -> None:
    """A paused TD ``demo`` is saved, loses its port while it is taken up, and goes on where it was."""
    lifecycle.start("demo")
    lifecycle.suspend("demo")
    changes.save("demo")
    with taker.taking_next():
        record = lifecycle.start("demo")
    assert (record.state, record.reason) == (State.PAUSED, None)
    assert record.run.ssh_port not in (None, int(taker.taken.read_text()))
    assert lifecycle.resume("demo").state is State.RUNNING
    assert not saved.saved_state("demo").exists()

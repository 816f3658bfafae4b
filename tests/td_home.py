"""A home of a test's own for TDs, and what the tests on lives of TDs share."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tdxstack.errors import TdxStackError
from tdxstack.system import paths
from tdxstack.vm import lifecycle
from tdxstack.vm.record import TdRecord
from tdxstack.vm.spec import TdSpec
from tdxstack.vm.state import State
from tiny_guest import TinyGuest

Define = Callable[..., TdSpec]

BOOT_TIMEOUT = 300.0
SETTLE_TIMEOUT = 30.0


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

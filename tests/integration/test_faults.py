"""What goes wrong on the way from a bare machine to an attested TD: a clear error, and nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.conftest import PROJECT, Tdxctl
from tdxstack.platform.accelerator import Accelerator, probe
from tdxstack.system import paths

pytestmark = pytest.mark.integration
PATIENCE = 90.0


class Command:
    """A running ``tdxctl`` in a session of its own, as a terminal's job, whose talk can be waited for."""

    def __init__(self, home: Tdxctl, *words: str, prefix: tuple[str, ...] = ()) -> None:
        self.said: list[str] = []
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "tdxstack.cli", *words],
            env=home.environment,
            cwd=PROJECT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def until(self, text: str) -> None:
        """Read its talk up to a line with ``text``."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.said.append(line)
            if text in line:
                return
        raise AssertionError(f"it ended without {text!r}: {''.join(self.said)}")

    def signal(self, number: int) -> None:
        """Send a signal to it and all that it started in its session, as a terminal does."""
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        """Kill it alone."""
        self._process.kill()

    def end(self, timeout: float = 60) -> int:
        """Wait for its end; its status."""
        assert self._process.stderr is not None
        self.said += self._process.stderr.readlines()
        return self._process.wait(timeout)


def _processes(*marks: str) -> list[str]:
    """Command lines of processes other than ours that name one of ``marks``."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if entry.parent.name != str(os.getpid()) and any(mark in words for mark in marks):
                found.append(f"{entry.parent.name}: {words[:200]}")
    return found


def _until_gone(*marks: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while left := _processes(*marks):
        assert time.monotonic() < deadline, f"orphans: {left}"
        time.sleep(0.1)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Tdxctl]:
    """``tdxctl`` in an empty home, which must hold no TD and no process afterwards."""
    home = tmp_path / "home"
    home.mkdir()
    command = Tdxctl(home)
    yield command
    assert command.json("td", "list")["tds"] == []
    _until_gone(str(home))


# -- no network -------------------------------------------------------------------------------------------------


def _link_cache(source: Tdxctl, target: Tdxctl, *patterns: str) -> None:
    for pattern in patterns:
        for path in (source.home / "cache").glob(pattern):
            link = target.home / "cache" / path.name
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(path)


@pytest.mark.parametrize(
    ("cached", "what"),
    [
        ((), "the firmware cannot be downloaded"),
        (("firmware",), "the package mirror cannot be reached"),
        (("firmware", "tools-*"), "the package mirror cannot be reached"),
    ],
)
def test_no_network_for_packages(
    tdxctl: Tdxctl, quickstart: Any, own: Tdxctl, cached: tuple[str, ...], what: str
) -> None:
    _link_cache(tdxctl, own, *cached)
    command = Command(own, "quickstart", prefix=("unshare", "--net"))
    assert command.end(timeout=300) == 5, command.said
    said = "".join(command.said)
    assert what in said
    assert "next: check the network" in said
    assert "Traceback" not in said
    assert own.json("image", "list")["images"] == []
    assert not list((own.home / "images").glob(".build-*"))
    assert not [path for path in (own.home / "cache").rglob(".*") if path.is_dir()]


# -- image builds that are cut off ------------------------------------------------------------------------------


@pytest.fixture
def builder(tdxctl: Tdxctl, quickstart: Any, own: Tdxctl) -> Tdxctl:
    """An empty home with the tools that the tests' home has made."""
    _link_cache(tdxctl, own, "tools-*")
    return own


def _no_image(builder: Tdxctl) -> None:
    assert builder.json("image", "list")["images"] == []
    assert [path.name for path in (builder.home / "images").iterdir() if path.name != ".lock"] == []


def test_an_image_build_that_is_killed_or_interrupted(builder: Tdxctl) -> None:
    command = Command(builder, "image", "build")
    command.until("installing")
    command.kill()
    command.end()
    _until_gone(str(builder.home))
    assert builder.json("image", "list")["images"] == []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        command = Command(builder, "image", "build")
        command.until("installing")
        command.signal(number)
        assert command.end() == 130, command.said
        assert command.said[-1] == "interrupted\n"
        _until_gone(str(builder.home))
        _no_image(builder)


@contextlib.contextmanager
def _small_disk(place: Path, size: str) -> Iterator[None]:
    place.mkdir(exist_ok=True)
    argv = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if subprocess.run(argv, check=False, capture_output=True).returncode:
        pytest.skip("no right to mount a small file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_too_small_for_an_image(builder: Tdxctl) -> None:
    with _small_disk(builder.home / "images", "64m"):
        done = builder("image", "build")
        assert done.returncode == 1
        assert "64 MB free; building an image takes" in done.stderr
        assert "next: free space" in done.stderr
        _no_image(builder)


def test_a_disk_that_fills_up_during_a_build(builder: Tdxctl) -> None:
    with _small_disk(builder.home / "images", "2100m"):
        command = Command(builder, "image", "build")
        command.until("installing")
        filler = builder.home / "images" / "filler"
        with filler.open("wb") as stream:
            free = shutil.disk_usage(filler.parent).free
            os.posix_fallocate(stream.fileno(), 0, free - (8 << 20))
        assert command.end(timeout=300) == 1, command.said
        assert "the disk is full" in "".join(command.said)
        assert "next: free about" in "".join(command.said)
        filler.unlink()
        _no_image(builder)


def test_a_disk_that_is_full_when_the_td_is_defined(tdxctl: Tdxctl, quickstart: Any, own: Tdxctl) -> None:
    _link_cache(tdxctl, own, "firmware*", "accelerator.json")
    (own.home / "images").mkdir()
    for path in (tdxctl.home / "images").glob("debian-13-*"):
        (own.home / "images" / path.name).symlink_to(path)
    with _small_disk(own.home / "tds", "16k"):
        with contextlib.suppress(OSError), (own.home / "tds" / "filler").open("wb", buffering=0) as stream:
            while stream.write(bytes(4096)):
                pass
        done = own("quickstart", timeout=300)
        assert done.returncode == 1
        assert "No space left on device" in done.stderr
        assert "next: free space" in done.stderr
        assert "Traceback" not in done.stderr
        assert own.json("td", "list")["tds"] == []
        assert {path.name for path in (own.home / "tds").iterdir()} <= {"filler", ".lock"}


# -- a quickstart whose parts die -------------------------------------------------------------------------------


def _named(tdxctl: Tdxctl, name: str) -> dict[str, Any]:
    return next(td for td in tdxctl.json("td", "list")["tds"] if td["name"] == name)


def _victim(td: dict[str, Any], what: str) -> int:
    if what != "swtpm":
        return int(td["run"][f"{what}_pid"])
    (line,) = [line for line in _processes(f"{paths.runtime() / td['name']}/") if "swtpm socket" in line]
    return int(line.split(":")[0])


@pytest.fixture
def waiting(
    tdxctl: Tdxctl, quickstart: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Command, dict[str, Any]]]:
    """A quickstart that waits for its guest, and its TD; nothing of both must be left."""
    monkeypatch.setenv("TDXSTACK_HOME", str(tdxctl.home))
    before = {td["name"] for td in tdxctl.json("td", "list")["tds"]}
    command = Command(tdxctl, "quickstart")
    command.until("wait for the guest")
    (name,) = {td["name"] for td in tdxctl.json("td", "list")["tds"]} - before
    yield command, _named(tdxctl, name)
    command.kill()
    command.end()
    assert {td["name"] for td in tdxctl.json("td", "list")["tds"]} == before
    assert _named(tdxctl, quickstart["td"]["name"])["state"] == "running"
    _until_gone(f"{paths.runtime() / name}/")


@pytest.mark.parametrize("what", ["supervisor", "qemu", "swtpm"])
def test_a_part_is_killed(waiting: tuple[Command, dict[str, Any]], what: str) -> None:
    command, td = waiting
    os.kill(_victim(td, what), signal.SIGKILL)
    assert command.end() == 1, command.said
    said = "".join(command.said)
    assert "Traceback" not in said
    assert f"tdxctl: TD {td['name']}" in said
    assert "next: " in said


def _twice(command: Command) -> None:
    command.signal(signal.SIGINT)
    time.sleep(0.2)
    command.signal(signal.SIGINT)


@pytest.mark.parametrize("end", [lambda command: command.signal(signal.SIGHUP), _twice], ids=["SIGHUP", "two Ctrl-C"])
def test_a_terminal_that_closes_and_an_impatient_person(
    waiting: tuple[Command, dict[str, Any]], end: Callable[[Command], None]
) -> None:
    command, _ = waiting
    end(command)
    assert command.end() == 130, command.said
    assert "Traceback" not in "".join(command.said)


# -- and the rest -----------------------------------------------------------------------------------------------


def test_evidence_that_cannot_be_kept(tdxctl: Tdxctl, quickstart: Any, tmp_path: Path) -> None:
    full = tmp_path / "full"
    with _small_disk(full, "4k"):
        (full / "filler").write_bytes(bytes(4096))
        done = tdxctl("attest", quickstart["td"]["name"], "--output", str(full), "--json")
        assert done.returncode == 1
        assert "No space left" in done.stderr
        assert "next: free space" in done.stderr
        assert json.loads(done.stdout)["schema"] == "tdxstack/error/v1"
        assert [path.name for path in full.iterdir()] == ["filler"]


def test_an_accelerator_is_told_by_running_a_vm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``/dev/kvm`` may be there and of no use: what the probe chooses has run code, and the reason says why."""
    monkeypatch.setenv("TDXSTACK_HOME", str(tmp_path))
    useless = tmp_path / "kvm"
    useless.touch()
    found = probe(use_cache=False, device=useless)
    assert found.accelerator is Accelerator.KVM or f"{useless} does not work: " in found.reason
    assert probe(use_cache=False, device=tmp_path / "absent").accelerator is Accelerator.TCG

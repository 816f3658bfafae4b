"""What a build starts ends with it, and its failures are explained."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tdxstack.errors import NetworkFault, ProcessFailed, SystemFault
from tdxstack.image.sandbox import contained, entered, explain, run_logged


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        ("E: Failed to fetch http://x  Temporary failure resolving 'x'", NetworkFault),
        ("cp: error writing 'x': No space left on device", SystemFault),
        ("something else", ProcessFailed),
    ],
)
def test_failures_are_explained(tmp_path: Path, output: str, kind: type[SystemFault]) -> None:
    log = tmp_path / "log"
    log.write_text(output)
    error = explain(["mkosi"], 1, log)
    assert type(error) is kind
    assert error.hint


def test_entered_binds_in_order() -> None:
    argv = entered(Path("/tree"), {Path("/a"): "/build", Path("/b"): "/packages"}, ["mkosi", "build"])
    assert argv[argv.index("/tree") :] == ["/tree", "/a", "/build", "/b", "/packages", "--", "mkosi", "build"]


@pytest.mark.processes
def test_lines_reach_the_log_and_the_caller(tmp_path: Path) -> None:
    lines: list[str] = []
    run_logged(["sh", "-c", "echo one; echo two >&2"], tmp_path / "log", lines.append, home=tmp_path)
    assert lines == ["one", "two"]
    assert (tmp_path / "log").read_text() == "one\ntwo\n"


@pytest.mark.processes
def test_a_failure_raises(tmp_path: Path) -> None:
    with pytest.raises(ProcessFailed, match="status 3"):
        run_logged(["sh", "-c", "echo sorry; exit 3"], tmp_path / "log", lambda _: None, home=tmp_path)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.processes
@pytest.mark.skipif(os.geteuid() != 0, reason="namespaces of root")
def test_an_interrupt_ends_all_that_was_started(tmp_path: Path) -> None:
    marker = f"{time.time_ns() % 10**9}.5"

    def stop(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_logged(contained(["sh", "-c", f"sleep {marker} & echo up; wait"]), tmp_path / "log", stop, home=tmp_path)
    assert not sleeping(marker)


@pytest.mark.processes
@pytest.mark.skipif(os.geteuid() != 0, reason="namespaces of root")
def test_a_kill_ends_all_that_was_started(tmp_path: Path) -> None:
    marker = f"{time.time_ns() % 10**9}.5"
    program = (
        "from pathlib import Path\nfrom tdxstack.image.sandbox import contained, run_logged\n"
        f"run_logged(contained(['sh', '-c', 'mount -t tmpfs x /mnt; sleep {marker} & echo up; wait']),"
        f" Path({str(tmp_path / 'log')!r}), lambda line: print(line, flush=True), home=Path('/'))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3] / "src")}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            assert becomes(lambda: bool(sleeping(marker)))
        finally:
            process.send_signal(signal.SIGKILL)
    assert becomes(lambda: not sleeping(marker))
    assert " /mnt tmpfs x" not in Path("/proc/self/mountinfo").read_text()


def becomes(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def sleeping(marker: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[:2] == [b"sleep", marker.encode()] and alive(int(path.parent.name)):
            found.append(int(path.parent.name))
    return found

"""What the tests on whole TDs share: one home with the guest image, and one TD that stays up for all who only look.

The home is kept between runs (``TDXSTACK_TEST_HOME``, by default ``build/test-home`` in the checkout), so that the
image is built once. Where several workers share the work (pytest-xdist), each has a home of its own inside it, with
the same images and the same cache.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parent.parent.parent
QUICKSTART_SECONDS = 900
BUILD_SECONDS = 900.0
RECIPE = "debian-13"


@dataclass(frozen=True)
class Tdxctl:
    """The command, run as a person runs it, in a home."""

    home: Path

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "TDXSTACK_HOME": str(self.home), "NO_COLOR": "1"}

    def __call__(self, *words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tdxstack.cli", *words],
            env=self.environment,
            cwd=PROJECT,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def beside(self, *words: str) -> subprocess.Popen[str]:
        """The command, running; its input stays open until it is told to end."""
        argv = [sys.executable, "-m", "tdxstack.cli", *words]
        return subprocess.Popen(
            argv, env=self.environment, cwd=PROJECT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def ok(self, *words: str, timeout: float = 120) -> str:
        done = self(*words, timeout=timeout)
        assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done.stdout

    def json(self, *words: str, timeout: float = 120) -> Any:
        return json.loads(self.ok(*words, "--json", timeout=timeout))


def run_by_the_agent(tdxctl: Tdxctl, name: str) -> None:
    """``td exec --agent`` in a Linux guest: its answer has what the command said and how it ended."""
    done = tdxctl("td", "exec", "--agent", name, "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout) == (7, "out\n")
    assert "err" in done.stderr
    killed = tdxctl("td", "exec", "--agent", name, "--", "sh", "-c", "kill -KILL $$")
    assert killed.returncode == 128 + 9
    late = tdxctl("td", "exec", "--agent", "--timeout", "1", name, "--", "sleep", "60")
    assert late.returncode == 1 and "sleep" in late.stderr
    absent = tdxctl("td", "exec", "--agent", name, "--", "/nonexistent/program")
    assert absent.returncode != 0 and "/nonexistent/program" in absent.stderr


def _test_home() -> Path:
    """This worker's home."""
    home = Path(os.environ.get("TDXSTACK_TEST_HOME", PROJECT / "build" / "test-home"))
    for shared in ("images", "cache"):
        (home / shared).mkdir(mode=0o700, parents=True, exist_ok=True)
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is None:
        return home
    own = home / worker
    own.mkdir(exist_ok=True)
    for shared in ("images", "cache"):
        if not (own / shared).exists():
            (own / shared).symlink_to(Path("..") / shared)
    return own


@pytest.fixture(scope="session")
def tdxctl() -> Iterator[Tdxctl]:
    """``tdxctl`` in the tests' home; TDs that a test leaves behind are ended."""
    command = Tdxctl(_test_home())
    yield command
    kept = os.environ.get("TDXSTACK_TEST_DOCUMENT")
    for record in json.loads(command("td", "list", "--json").stdout or '{"tds": []}')["tds"]:
        if kept and record["name"] == json.loads(Path(kept).read_text())["td"]["name"]:
            continue
        with contextlib.suppress(subprocess.SubprocessError):
            command("td", "delete", record["name"], "--yes")


@pytest.fixture(scope="session")
def quickstart(tdxctl: Tdxctl) -> Any:
    """The document of one quickstart whose TD stays up (``td.name``).

    While a test is being written: TDXSTACK_TEST_DOCUMENT names the output of a ``quickstart --keep --json`` in the
    tests' home, and nothing is booted.
    """
    if document := os.environ.get("TDXSTACK_TEST_DOCUMENT"):
        return json.loads(Path(document).read_text())
    return tdxctl.json("quickstart", "--keep", timeout=QUICKSTART_SECONDS)


def image_with(tdxctl: Tdxctl, boot: str) -> dict[str, Any]:
    """An image of ours with that boot layout: one of the home, or a new one."""
    known = [one for one in tdxctl.json("image", "list")["images"] if (one["recipe"], one["boot"]) == (RECIPE, boot)]
    built: dict[str, Any] = (
        known[-1] if known else tdxctl.json("image", "build", "--boot", boot, timeout=BUILD_SECONDS)
    )
    return built

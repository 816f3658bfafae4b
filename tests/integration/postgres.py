"""A PostgreSQL of the tests' own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

START_SECONDS = 60


def wait_until(ready: Callable[[], bool], what: str) -> None:
    ends = time.monotonic() + START_SECONDS
    while not ready():
        if time.monotonic() > ends:
            raise AssertionError(f"{what}: not within {START_SECONDS} s")
        time.sleep(0.1)


class Postgres:
    """A cluster of its own in a directory of its own, on a Unix socket, as the user ``postgres``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
        if not found:
            pytest.skip("no PostgreSQL: apt-get install postgresql")
        self._bin = found[-1].parent
        self._process: subprocess.Popen[bytes] | None = None

    def _command(self, *argv: str) -> list[str]:
        prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        return [*prefix, *argv]

    def create(self) -> None:
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
        argv = [str(self._bin / "initdb"), "-D", str(self.folder / "data"), "-A", "trust", "-U", "pccs", "-E", "UTF8"]
        subprocess.run(self._command(*argv), check=True, capture_output=True, cwd="/")

    def start(self) -> None:
        argv = [str(self._bin / "postgres"), "-D", str(self.folder / "data"), "-k", str(self.folder)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(*argv, "-c", "listen_addresses="), stdout=log, stderr=log, cwd="/"
            )
        ready = [str(self._bin / "pg_isready"), "-q", "-h", str(self.folder)]
        wait_until(lambda: subprocess.run(ready, check=False).returncode == 0, "PostgreSQL")

    def kill(self) -> None:
        """SIGKILL to the postmaster; the others end when they see that."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(FileNotFoundError):
            (self.folder / "data" / "postmaster.pid").unlink()
        wait_until(lambda: not self._left(), "the end of PostgreSQL's processes")

    def _left(self) -> list[Path]:
        """Processes that work in the cluster's directory."""
        found = []
        for link in Path("/proc").glob("[0-9]*/cwd"):
            with contextlib.suppress(OSError):
                if link.readlink() == self.folder / "data":
                    found.append(link.parent)
        return found

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(30)

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://pccs@/postgres?host={self.folder}"


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    # Not under tmp_path: a Unix socket's path is short, and the user postgres must be able to enter.
    folder = Path(tempfile.mkdtemp(prefix="tdxstack-pg-", dir="/tmp"))
    cluster = Postgres(folder)
    try:
        cluster.create()
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder)

"""Real servers: ``tdxctl pccs serve`` in processes of their own, on SQLite or on a PostgreSQL started here."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from tdxstack.services.pccs.settings import Settings
from tdxstack.services.pccs.setup import Plan, initialise

START_SECONDS = 60


def wait_until(ready: Callable[[], bool], what: str) -> None:
    ends = time.monotonic() + START_SECONDS
    while not ready():
        if time.monotonic() > ends:
            raise AssertionError(f"{what}: not within {START_SECONDS} s")
        time.sleep(0.1)


@dataclass
class Server:
    """One ``tdxctl pccs serve``."""

    process: subprocess.Popen[bytes]
    url: str
    folder: Path
    log: Path

    @property
    def client(self) -> httpx2.Client:
        context = ssl.create_default_context(cafile=str(self.folder / "tls-ca.crt"))
        return httpx2.Client(base_url=self.url, verify=context, timeout=30, trust_env=False)

    def token(self, kind: str) -> dict[str, str]:
        return {f"{kind}-token": (self.folder / f"{kind}-token").read_text().strip()}

    def kill(self) -> None:
        """SIGKILL; nothing, if it has ended."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def start_server(folder: Path) -> Server:
    """Start and wait until it listens."""
    log = folder / f"serve-{time.monotonic_ns()}.log"
    command = [sys.executable, "-m", "tdxstack.cli", "pccs", "serve", "-c", str(folder / "pccs.toml"), "--port", "0"]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream)

    def listening() -> bool:
        assert process.poll() is None, log.read_text()
        return " listening on " in log.read_text()

    try:
        wait_until(listening, "the server")
    except BaseException:
        process.kill()
        raise
    line = next(line for line in log.read_text().splitlines() if " listening on " in line)
    return Server(process, line.rsplit(" ", 1)[1], folder, log)


@pytest.fixture
def launch() -> Iterator[Callable[[Path], Server]]:
    """Starts servers and ends them all."""
    with contextlib.ExitStack() as stack:

        def begin(folder: Path) -> Server:
            server = start_server(folder)
            stack.callback(server.kill)
            return server

        yield begin


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
        time.sleep(2)

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


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/shared.db"
    cluster: Postgres = request.getfixturevalue("postgres")
    return cluster.url


@pytest.fixture
def configure(tmp_path: Path) -> Callable[..., Path]:
    """Make a service's directory; several may share a database and have the same tokens and TLS files."""

    def make(name: str = "pccs", **plan: object) -> Path:
        folder = tmp_path / name
        initialise(folder, Plan(**plan))  # type: ignore[arg-type]
        settings = Settings.load(folder / "pccs.toml")
        (folder / "pccs.toml").write_text(dataclasses.replace(settings, poll_seconds=0.2).to_toml())
        return folder

    return make

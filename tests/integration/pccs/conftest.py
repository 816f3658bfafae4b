"""Real servers: ``tdxctl pccs serve`` in processes of their own, on SQLite or on a PostgreSQL started here."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from integration.postgres import Postgres, postgres, wait_until
from tdxstack.services.pccs.settings import Settings
from tdxstack.services.pccs.setup import Plan, initialise

__all__ = ["Postgres", "Server", "postgres"]


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

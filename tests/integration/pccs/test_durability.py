"""What was acknowledged is there after a kill -9, and what one replica writes another one serves."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tdxstack.platform.software.platform import SoftwarePlatform

from .conftest import Postgres, Server

pytestmark = pytest.mark.integration

PLATFORMS = "/sgx/certification/v4/platforms"
Launch = Callable[[Path], Server]
Configure = Callable[..., Path]


def registration(qe_id: str) -> dict[str, str]:
    return {"qe_id": qe_id, "pce_id": "0000", "cpu_svn": "0" * 32, "pce_svn": "0000", "enc_ppid": "AB" * 384}


class Writers:
    """Threads that register platforms until the server is gone; ``acknowledged`` are those that were answered."""

    def __init__(self, servers: list[Server], threads: int = 4) -> None:
        self.acknowledged: list[str] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._write, args=(servers[number % len(servers)], number))
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def _write(self, server: Server, number: int) -> None:
        step = 0
        with server.client as client:
            while not self._stop.is_set():
                qe_id = f"{number:02X}{step:06X}"
                try:
                    answer = client.post(PLATFORMS, json=registration(qe_id), headers=server.token("user"))
                except httpx2.HTTPError:
                    return
                if answer.status_code == 200:
                    self.acknowledged.append(qe_id)
                step += 1

    def wait_for(self, count: int) -> None:
        ends = time.monotonic() + 120
        while len(self.acknowledged) < count:
            assert time.monotonic() < ends, f"{len(self.acknowledged)} written"
            time.sleep(0.01)

    def stop(self) -> list[str]:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return self.acknowledged


def listed(server: Server) -> set[str]:
    with server.client as client:
        rows = client.get(PLATFORMS, headers=server.token("admin")).json()
    return {row["qe_id"] for row in rows}


def test_kill_9_loses_nothing_acknowledged(configure: Configure, launch: Launch, database: str) -> None:
    folder = configure(mode="OFFLINE", database=database)
    acknowledged: list[str] = []
    for round_number in range(3):
        server = launch(folder)
        writers = Writers([server])
        writers.wait_for(10 + 15 * round_number)
        server.kill()
        acknowledged += writers.stop()
    server = launch(folder)
    with server.client as client:
        assert client.get("/readyz").status_code == 200
    missing = set(acknowledged) - listed(server)
    assert missing == set()
    assert len(acknowledged) >= 10 + 25 + 40


def test_kill_9_of_postgresql_loses_nothing_acknowledged(
    configure: Configure, launch: Launch, postgres: Postgres
) -> None:
    server = launch(configure(mode="OFFLINE", database=postgres.url))
    writers = Writers([server])
    writers.wait_for(30)
    postgres.kill()
    with server.client as client:
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
    acknowledged = writers.stop()
    postgres.start()
    with server.client as client:
        assert client.get("/readyz").status_code == 200, "it finds the database again"
    assert set(acknowledged) <= listed(server)


def test_two_replicas_write_to_one_database(configure: Configure, launch: Launch, database: str) -> None:
    servers = [launch(configure(name, mode="OFFLINE", database=database)) for name in ("one", "two")]
    writers = Writers(servers)
    writers.wait_for(80)
    acknowledged = writers.stop()
    found = listed(servers[0])
    assert set(acknowledged) <= found
    assert listed(servers[1]) == set(), "a registration is handed out once, whichever replica is asked"


def _collateral(platform: SoftwarePlatform, tmp_path: Path) -> bytes:
    """What Intel's admin tool would PUT for the software platform, without PCK certificates."""
    held = platform.collateral()
    identity = f'{{"enclaveIdentity":{held["qe_identity"]},"signature":"{held["qe_identity_signature"]}"}}'
    body: dict[str, Any] = {
        "platforms": [],
        "collaterals": {
            "version": 4,
            "pck_certs": [],
            "tcbinfos": [],
            "tdqeidentity": identity,
            "certificates": {
                "SGX-PCK-Certificate-Issuer-Chain": {},
                "SGX-Enclave-Identity-Issuer-Chain": held["qe_identity_issuer_chain"],
            },
        },
    }
    return json.dumps(body).encode()


def test_what_one_replica_is_brought_the_other_serves(
    configure: Configure, launch: Launch, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TDXSTACK_HOME", str(tmp_path / "home"))
    platform = SoftwarePlatform.create("demo")
    root = tmp_path / "root.der"
    root.write_bytes(platform.trust_root())
    plan = {"mode": "OFFLINE", "database": database, "trust_roots": (str(root),)}
    one, two = (launch(configure(name, **plan)) for name in ("one", "two"))
    path = "/tdx/certification/v4/qe/identity"
    with one.client as first, two.client as second:
        assert (first.get(path).status_code, second.get(path).status_code) == (404, 404)
        seen = []
        for _ in range(2):
            platform.refresh()
            put = first.put(
                "/sgx/certification/v4/platformcollateral",
                content=_collateral(platform, tmp_path),
                headers=one.token("admin"),
            )
            assert put.status_code == 200, put.text
            written = first.get(path).content
            ends = time.monotonic() + 60
            while second.get(path).content != written:
                assert time.monotonic() < ends, "the other replica serves what is old"
            seen.append(written)
        assert seen[0] != seen[1]


def test_one_replica_goes_the_other_stays(configure: Configure, launch: Launch, database: str) -> None:
    servers = [launch(configure(name, mode="OFFLINE", database=database)) for name in ("one", "two")]
    writers = Writers(servers)
    writers.wait_for(20)
    servers[0].kill()
    before = len(writers.acknowledged)
    writers.wait_for(before + 20)
    assert set(writers.stop()) <= listed(servers[1])

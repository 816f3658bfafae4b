from __future__ import annotations

import asyncio
import functools
import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from fastapi import FastAPI

import fake_intel
from tdxstack.services.pccs.app import routes
from tdxstack.services.pccs.hot import Front
from tdxstack.services.pccs.service import Service, open_service
from tdxstack.services.pccs.settings import Settings
from tdxstack.services.pccs.store import Store

USER, ADMIN = "user token", "admin token"


def _cheap(token: str) -> str:
    """A hash that costs nothing: scrypt's price is a matter of the tests of tokens."""
    digest = hashlib.scrypt(token.encode(), salt=bytes(16), n=16, r=8, p=1, dklen=32)
    return f"scrypt:16:8:1:{bytes(16).hex()}:{digest.hex()}"


USER_HASH, ADMIN_HASH = _cheap(USER), _cheap(ADMIN)


@functools.cache
def _routes() -> FastAPI:
    """FastAPI takes long over its routes; the tests of a process share them."""
    return routes()


class Clock:
    """A clock that stands until it is told."""

    def __init__(self) -> None:
        self.now = float(fake_intel.NOW)

    def __call__(self) -> float:
        return self.now


class Api:
    """A service's application, called without a network."""

    def __init__(self, service: Service, intel: fake_intel.FakeIntel, clock: Clock) -> None:
        self.service = service
        self.intel = intel
        self.clock = clock
        self.app = Front(_routes(), service.hot, service.metrics)

    def call(self, method: str, path: str, **kwargs: Any) -> httpx2.Response:
        _routes().state.service = self.service

        async def once() -> httpx2.Response:
            transport = httpx2.ASGITransport(app=self.app, raise_app_exceptions=False)
            async with httpx2.AsyncClient(transport=transport, base_url="http://pccs") as client:
                return await client.request(method, path, **kwargs)

        return asyncio.run(once())

    def get(self, path: str, **query: str) -> httpx2.Response:
        return self.call("GET", path, params=query)

    def admin(self, method: str, path: str, **kwargs: Any) -> httpx2.Response:
        return self.call(method, path, headers={"admin-token": ADMIN}, **kwargs)

    def register(self, body: Any, **query: str) -> httpx2.Response:
        return self.call(
            "POST", "/sgx/certification/v4/platforms", json=body, params=query, headers={"user-token": USER}
        )


@pytest.fixture
def intel() -> fake_intel.FakeIntel:
    return fake_intel.FakeIntel()


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with this version's schema and nothing in it."""
    path = tmp_path_factory.mktemp("database") / "pccs.db"
    store = Store(f"sqlite:///{path}")
    store.migrate()
    store.close()
    return path


@pytest.fixture
def start(tmp_path: Path, empty: Path, intel: fake_intel.FakeIntel) -> Iterator[Callable[..., Api]]:
    """Start a service in a mode; several share one database."""
    root = tmp_path / "root.pem"
    root.write_bytes(fake_intel.pki().root.certificate.public_bytes(Encoding.PEM))
    shutil.copy(empty, tmp_path / "pccs.db")
    opened: list[Service] = []

    def begin(mode: str = "LAZY", **settings: Any) -> Api:
        values: dict[str, Any] = {
            "mode": mode,
            "database": f"sqlite:///{tmp_path}/pccs.db",
            "trust_roots": [str(root)],
            "user_token": USER_HASH,
            "admin_token": ADMIN_HASH,
        }
        clock = Clock()
        source = None if mode == "OFFLINE" else intel
        service = open_service(Settings(**values | settings), source=source, clock=clock)
        opened.append(service)
        return Api(service, intel, clock)

    yield begin
    for service in opened:
        service.close()


@pytest.fixture
def api(start: Callable[..., Api]) -> Api:
    return start()

"""Listening: uvicorn with TLS 1.2 or later."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import uvicorn

from tdxstack.errors import SystemFault

#: Connections beyond so many are answered with 503.
MAX_CONCURRENT = 2000
GRACE_SECONDS = 10


class _Server(uvicorn.Server):
    """Says where it listens, once it does."""

    def __init__(self, config: uvicorn.Config, listening: Callable[[str], None]) -> None:
        super().__init__(config)
        self._listening = listening

    async def startup(self, sockets: object = None) -> None:
        await super().startup(None)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            scheme = "https" if self.config.is_ssl else "http"
            self._listening(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. Without a TLS certificate it is plain HTTP. ``log_reads``: log every request."""

    host: str
    port: int
    tls_certificate: str = ""
    tls_key: str = ""
    log_reads: bool = False


def listen(app: Any, address: Address, listening: Callable[[str], None]) -> None:
    """Serve an ASGI application until SIGTERM or SIGINT.

    Args:
        listening: called with the URL once requests are taken.

    Raises:
        SystemFault: the address is taken, or the TLS files cannot be used.
    """
    config = uvicorn.Config(
        app,
        host=address.host,
        port=address.port,
        ssl_certfile=address.tls_certificate or None,
        ssl_keyfile=address.tls_key or None,
        http="httptools",
        loop="uvloop",
        ws="none",
        lifespan="on",
        access_log=address.log_reads,
        log_level="info" if address.log_reads else "warning",
        server_header=False,
        limit_concurrency=MAX_CONCURRENT,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise SystemFault(f"TLS: {error}", hint="check tls_certificate and tls_key in the settings") from None
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    server = _Server(config, listening)
    try:
        server.run()
    except SystemExit:
        raise SystemFault(
            f"cannot listen on {address.host} port {address.port}",
            hint="choose another port, or end what holds it",
        ) from None

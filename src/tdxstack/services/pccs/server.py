"""Listening: uvicorn with TLS 1.2 or later."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import uvicorn

from tdxstack.errors import SystemFault
from tdxstack.services.pccs.app import create_app
from tdxstack.services.pccs.service import Service

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


def serve(service: Service, listening: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        listening: called with the URL once requests are taken.

    Raises:
        SystemFault: the address is taken, or the TLS files cannot be used.
    """
    settings = service.settings
    config = uvicorn.Config(
        create_app(service),
        host=settings.host,
        port=settings.port,
        ssl_certfile=settings.tls_certificate or None,
        ssl_keyfile=settings.tls_key or None,
        http="httptools",
        loop="uvloop",
        ws="none",
        lifespan="on",
        access_log=settings.log_reads,
        log_level="warning" if not settings.log_reads else "info",
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
            f"cannot listen on {settings.host} port {settings.port}", hint="choose another port, or end what holds it"
        ) from None

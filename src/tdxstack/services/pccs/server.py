"""Serving the PCCS."""

from __future__ import annotations

from collections.abc import Callable

from tdxstack.services.listen import Address, listen
from tdxstack.services.pccs.app import create_app
from tdxstack.services.pccs.service import Service


def serve(service: Service, listening: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; ``listening`` is called with the URL. Raises SystemFault."""
    s = service.settings
    address = Address(s.host, s.port, s.tls_certificate, s.tls_key, s.log_reads)
    listen(create_app(service), address, listening)

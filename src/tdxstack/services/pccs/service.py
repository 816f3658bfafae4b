"""The service as a whole, made from its settings."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tdxstack.dcap.roots import parse_roots
from tdxstack.errors import SystemFault, UsageError
from tdxstack.pcs.client import PcsClient
from tdxstack.pcs.source import Source
from tdxstack.pcs.transport import TransportOptions
from tdxstack.services.metrics import Metrics
from tdxstack.services.pccs import caching, hot
from tdxstack.services.pccs.admission import Admission
from tdxstack.services.pccs.caching import Collateral, Mode, Upstream
from tdxstack.services.pccs.hot import HotAnswers
from tdxstack.services.pccs.platforms import Platforms
from tdxstack.services.pccs.settings import Settings
from tdxstack.services.pccs.software import PREFIX, SoftwareSource
from tdxstack.services.pccs.store import Store
from tdxstack.services.pccs.tokens import Token

GAUGES = {
    "pccs_documents": ("gauge", "Documents and CRLs in the database, by kind."),
    "pccs_earliest_expiry_timestamp_seconds": ("gauge", "When the first of them expires, by kind."),
    "pccs_rows": ("gauge", "Rows of each table."),
}


@dataclass(frozen=True, slots=True)
class Service:
    """Everything that the routes use."""

    settings: Settings
    store: Store
    collateral: Collateral
    platforms: Platforms
    hot: HotAnswers
    metrics: Metrics
    user_token: Token | None
    admin_token: Token | None
    source: Source | None

    def close(self) -> None:
        """Close the database and upstream's connections."""
        if self.source is not None:
            self.source.close()
        self.store.close()

    def measure(self) -> str:
        """The metrics of this moment, in Prometheus' format."""
        for kind, (number, expires) in self.store.expiries().items():
            self.metrics.set("pccs_documents", number, kind=kind)
            self.metrics.set("pccs_earliest_expiry_timestamp_seconds", expires, kind=kind)
        for table, rows in self.store.counts().items():
            self.metrics.set("pccs_rows", rows, table=table)
        return self.metrics.text()


def make_source(settings: Settings) -> Source | None:
    """Upstream, by the settings; None in OFFLINE mode.

    Raises:
        UsageError, PlatformMissing
    """
    if settings.mode == "OFFLINE":
        return None
    if settings.upstream.startswith(PREFIX):
        return SoftwareSource.open(settings.upstream.removeprefix(PREFIX))
    options = TransportOptions(
        ca_file=Path(settings.upstream_ca_file) if settings.upstream_ca_file else None, deadline=30.0, retries=2
    )
    return PcsClient(settings.upstream, api_key=_read(settings.api_key_file), options=options)


def trusted_roots(settings: Settings) -> frozenset[bytes]:
    """DER of the roots that collateral must be signed under.

    Raises:
        UsageError: a file is none.
    """
    named: list[str | bytes] = []
    for root in settings.trust_roots:
        if root == "intel":
            named.append(root)
            continue
        try:
            named.append(Path(root).read_bytes())
        except OSError as error:
            raise UsageError(f"{root}: {error.strerror}", hint="name certificate files in trust_roots") from None
    if settings.upstream.startswith(PREFIX):
        named.append(SoftwareSource.open(settings.upstream.removeprefix(PREFIX)).trust_root())
    return frozenset(certificate.der for certificate in parse_roots(named))


def open_service(
    settings: Settings, *, source: Source | None = None, clock: Callable[[], float] = time.time
) -> Service:
    """Open the database, bring its schema up to date, and put everything together.

    Args:
        source: upstream instead of the settings'.
        clock: Unix seconds.
    """
    roots = trusted_roots(settings)
    if source is None:
        source = make_source(settings)
    mode = Mode(settings.mode)
    metrics = Metrics({**hot.METRICS, **caching.METRICS, **GAUGES})
    store = Store(settings.database, clock=clock)
    try:
        store.migrate()
        if source is not None:
            store.bind_upstream(source.name)
    except BaseException:
        store.close()
        raise
    collateral = Collateral(store, Admission(roots, clock), mode, Upstream(source, mode, metrics), clock=clock)
    return Service(
        settings,
        store,
        collateral,
        Platforms(collateral),
        HotAnswers(clock),
        metrics,
        Token(settings.user_token) if settings.user_token else None,
        Token(settings.admin_token) if settings.admin_token else None,
        source,
    )


def database_state(settings: Settings) -> dict[str, Any]:
    """What is in the database, for ``tdxctl pccs status``."""
    store = Store(settings.database)
    try:
        generation = store.check()
        expiries = store.expiries()
        return {
            "generation": generation,
            "upstream": store.upstream(),
            "rows": store.counts(),
            "documents": [
                {"kind": kind, "number": number, "earliest_expiry": expires}
                for kind, (number, expires) in sorted(expiries.items())
            ],
        }
    finally:
        store.close()


def _read(path: str) -> str | None:
    if not path:
        return None
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        raise SystemFault(f"{path}: {error.strerror}") from None

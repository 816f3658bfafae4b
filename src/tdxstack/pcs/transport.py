"""HTTP as collateral needs it: bounded answers, bounded patience, retries, verified TLS.

Collateral is signed, so a wrong server cannot forge it; it can withhold it or serve what is old. TLS is verified all
the same, and only :attr:`TransportOptions.dangerous_accept_any_certificate` turns that off.
"""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tdxstack.errors import CollateralAbsent, CollateralUnreachable, UsageError

if TYPE_CHECKING:
    import httpx2

#: Statuses after which the same request may succeed.
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
#: No wait is longer than this many seconds, whatever Retry-After says.
LONGEST_WAIT = 60.0


@dataclass(frozen=True, slots=True)
class TransportOptions:
    """How to talk to a service.

    Args:
        timeout: seconds for connecting, and for each read.
        deadline: seconds for one request with all its retries.
        retries: how often a failed request is sent again.
        backoff: seconds before the first retry; doubled each time, with jitter.
        max_bytes: an answer that is longer is refused.
        ca_file: PEM file of the CAs to trust instead of the public ones.
        proxy: URL of a proxy; None takes HTTPS_PROXY and NO_PROXY from the environment.
        dangerous_accept_any_certificate: do not verify TLS.
    """

    timeout: float = 20.0
    deadline: float = 120.0
    retries: int = 4
    backoff: float = 0.5
    max_bytes: int = 4 << 20
    ca_file: Path | None = None
    proxy: str | None = None
    dangerous_accept_any_certificate: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Request:
    """What to send. ``item`` says what is asked for, in errors."""

    method: str
    url: str
    item: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None


class Transport:
    """One connection pool. Thread-safe. ``clock`` and ``sleep`` are arguments for the tests."""

    def __init__(
        self,
        options: TransportOptions | None = None,
        *,
        transport: httpx2.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        import httpx2

        self.options = options or TransportOptions()
        self._clock = clock
        self._sleep = sleep
        self._client = httpx2.Client(
            timeout=self.options.timeout,
            verify=_tls(self.options),
            proxy=self.options.proxy,
            follow_redirects=False,
            transport=transport,
            headers={"user-agent": "tdxstack", "accept-encoding": "gzip, identity"},
        )

    def close(self) -> None:
        self._client.close()

    def send(self, request: Request) -> Answer:
        """Send a request until it is answered.

        Raises:
            CollateralAbsent: the service answered that it has not got it, or will not give it (4xx).
            CollateralUnreachable: no answer, an answer that is too long, or a fault of the service (5xx).
        """
        ends = self._clock() + self.options.deadline
        attempt = 0
        while True:
            try:
                return self._once(request, ends)
            except _Again as again:
                wait = min(again.wait if again.wait is not None else self._backoff(attempt), LONGEST_WAIT)
                if attempt >= self.options.retries or self._clock() + wait > ends:
                    raise again.error from None
            attempt += 1
            self._sleep(wait)

    def _backoff(self, attempt: int) -> float:
        jitter = 0.5 + random.random() / 2  # noqa: S311  # not a secret
        return float(self.options.backoff * 2**attempt * jitter)

    def _once(self, request: Request, ends: float) -> Answer:
        import httpx2

        try:
            with self._client.stream(
                request.method,
                request.url,
                params=dict(request.query),
                headers=dict(request.headers),
                content=request.content,
            ) as response:
                return _judge(response, self._read(response, request, ends), request)
        except httpx2.InvalidURL as error:
            raise UsageError(f"{request.url}: {error}", hint="give a URL such as https://host:8081") from None
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            raise _Again(_unreachable(request, error)) from None

    def _read(self, response: httpx2.Response, request: Request, ends: float) -> bytes:
        item, url = request.item, request.url
        parts: list[bytes] = []
        size = 0
        for part in response.iter_bytes():
            size += len(part)
            if self._clock() > ends:
                raise CollateralUnreachable(item, f"{item}: {url} did not answer within {self.options.deadline:g} s")
            if size > self.options.max_bytes:
                raise CollateralUnreachable(
                    item,
                    f"{item}: {url} answered with more than {self.options.max_bytes} bytes",
                    hint="check that the URL is that of a PCS or PCCS",
                )
            parts.append(part)
        return b"".join(parts)


class _Again(Exception):
    """The request may be sent again, after ``wait`` seconds (None: back off)."""

    def __init__(self, error: CollateralUnreachable, wait: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait = wait


def _judge(response: httpx2.Response, body: bytes, request: Request) -> Answer:
    item, url = request.item, request.url
    status = response.status_code
    if 200 <= status < 300:
        return Answer(status, {name.lower(): value for name, value in response.headers.items()}, body)
    said = response.headers.get("error-message") or body[:200].decode(errors="replace").strip()
    text = f"{item}: {url} answered {status}" + (f" ({said})" if said else "")
    if status in RETRIED:
        error = CollateralUnreachable(item, text, status=status, hint=_hint(status))
        raise _Again(error, _retry_after(response.headers.get("retry-after")))
    if 400 <= status < 500:
        raise CollateralAbsent(item, text, status=status, hint=_hint(status))
    raise CollateralUnreachable(item, text, status=status, hint=_hint(status))


def _tls(options: TransportOptions) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if options.dangerous_accept_any_certificate:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif options.ca_file is not None:
        try:
            context = ssl.create_default_context(cafile=str(options.ca_file))
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"{options.ca_file}: no CA certificates there: {error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _unreachable(request: Request, error: Exception) -> CollateralUnreachable:
    text = str(error) or type(error).__name__
    item, url = request.item, request.url
    hint = "check the network, HTTPS_PROXY and NO_PROXY; without a network, use a bundle: tdxctl collateral bundle"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        hint = "give the CA that signed the server's certificate: --tls-ca FILE"
    return CollateralUnreachable(item, f"{item}: cannot reach {url}: {text}", hint=hint)


def _hint(status: int) -> str | None:
    return {
        401: "check the API key or token",
        404: "check the FMSPC and the evaluation set; a PCCS in OFFLINE mode must be filled first",
        410: "this issue of the collateral has been withdrawn; take a later evaluation number",
        429: "the service limits how often it is asked; wait, or use a PCCS of your own: tdxctl pccs serve",
        461: "register the platform first",
    }.get(status)


def _retry_after(value: str | None) -> float | None:
    """Seconds that Retry-After asks for; None if it is absent or not understood."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None

"""Answers kept ready in memory, in front of the routes: reading collateral is what a PCCS does all day.

An answer is kept for its exact path and query until the database changes (this replica's own writes at once, others'
after ``poll_seconds``), its collateral expires, or a minute has passed.
"""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode

from tdxstack.services.metrics import Metrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: A handler puts here, in the request's scope, until when (Unix seconds) its answer may be kept.
KEEP_UNTIL = "tdxstack.keep_until"
LONGEST_SECONDS = 60
MAX_BYTES = 64 << 20

METRICS = {
    "pccs_requests_total": ("counter", "Requests, by method and status."),
    "pccs_hot_answers_total": ("counter", "Requests that were answered from memory."),
    "pccs_request_seconds_total": ("counter", "Time spent on requests that were not answered from memory."),
}

_ROUTES = re.compile("/(?:sgx|tdx)/certification/", re.IGNORECASE)
_V3 = "/sgx/certification/v3/"
#: RFC 7234, 5.5: 299 is a persistent warning. What is of version 3 stays as it was brought.
_V3_WARNING = (b"warning", b'299 - "Version 3 of the PCS API has ended; its collateral will not be refreshed"')

Key = tuple[str, bytes]


@dataclass(frozen=True, slots=True)
class Ready:
    """An answer. ``until`` is in Unix seconds."""

    headers: list[tuple[bytes, bytes]]
    body: bytes
    until: float


class HotAnswers:
    """Thread-safe. ``generation`` counts how often everything was dropped; ``clock`` gives Unix seconds."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self._answers: OrderedDict[Key, Ready] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self.generation = 0

    def get(self, key: Key) -> Ready | None:
        """The answer, unless its time is over."""
        ready = self._answers.get(key)
        if ready is None or self.clock() >= ready.until:
            return None
        return ready

    def put(self, key: Key, ready: Ready, generation: int) -> None:
        """Keep an answer that was begun in ``generation``; it is dropped if that is over."""
        with self._lock:
            if generation != self.generation or len(ready.body) > MAX_BYTES // 16:
                return
            self._drop(key)
            self._answers[key] = ready
            self._bytes += _size(key, ready)
            while self._bytes > MAX_BYTES:
                self._drop(next(iter(self._answers)))

    def _drop(self, key: Key) -> None:
        old = self._answers.pop(key, None)
        if old is not None:
            self._bytes -= _size(key, old)

    def clear(self) -> None:
        """The database has changed."""
        with self._lock:
            self._answers.clear()
            self._bytes = 0
            self.generation += 1


def _size(key: Key, ready: Ready) -> int:
    headers = sum(len(name) + len(value) for name, value in ready.headers)
    return len(key[0]) + len(key[1]) + headers + len(ready.body) + 1024


class Front:
    """ASGI: answers from memory where it can; else lets the routes answer. Adds Request-ID and counts."""

    def __init__(self, app: App, hot: HotAnswers, metrics: Metrics) -> None:
        self._app = app
        self._hot = hot
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = secrets.token_hex(16).encode()
        if scope["method"] in ("GET", "HEAD"):
            key = (scope["path"], scope["query_string"])
            ready = self._hot.get(key)
            if ready is not None:
                self._metrics.add("pccs_hot_answers_total")
                headers = [*ready.headers, (b"request-id", request_id)]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send({"type": "http.response.body", "body": ready.body})
                return
        await self._pass_on(scope, receive, send, request_id)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, request_id: bytes) -> None:
        key = (scope["path"], scope["query_string"])
        inner = as_intels(scope)
        generation = self._hot.generation
        started = time.perf_counter()
        start: Message = {}
        old = [_V3_WARNING] if inner["path"].startswith(_V3) else []

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message, headers=[*message["headers"], *old])
                message = {**start, "headers": [*start["headers"], (b"request-id", request_id)]}
                self._metrics.add("pccs_requests_total", method=scope["method"], status=str(message["status"]))
            elif (until := inner.get(KEEP_UNTIL)) is not None and not message.get("more_body"):
                until = min(until, self._hot.clock() + LONGEST_SECONDS)
                self._hot.put(key, Ready(list(start["headers"]), message.get("body", b""), until), generation)
            await send(message)

        try:
            await self._app(inner, receive, watched)
        finally:
            self._metrics.add("pccs_request_seconds_total", time.perf_counter() - started)


def as_intels(scope: Scope) -> Scope:
    """The request as Intel's PCCS reads it: paths in any case and with a slash at their end, HEAD where GET changes
    nothing (the server leaves the body out), the first value of each parameter."""
    inner = dict(scope)
    if _ROUTES.match(inner["path"]):
        inner["path"] = inner["path"].rstrip("/").lower()
    if inner["method"] == "HEAD" and changes_nothing(inner["path"]):
        inner["method"] = "GET"
    inner["query_string"] = first_of_each(scope["query_string"])
    return inner


def changes_nothing(path: str) -> bool:
    """Whether GET of it only reads: what waits is handed out once, and a refresh fetches."""
    return not path.endswith(("/platforms", "/refresh"))


def first_of_each(query: bytes) -> bytes:
    """The query with the first value of each parameter alone, as Intel's PCCS reads it."""
    if query.count(b"=") < 2:
        return query
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    first: dict[str, str] = {}
    for name, value in pairs:
        first.setdefault(name, value)
    return query if len(first) == len(pairs) else urlencode(first).encode()

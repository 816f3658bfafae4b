"""Routes of the verifier."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tdxstack.errors import SystemFault, TdxStackError
from tdxstack.services import metrics as metrics_format
from tdxstack.services.metrics import Metrics
from tdxstack.services.pccs.refusal import MEANINGS, Refusal, Status
from tdxstack.services.verifier.attestation import Attestation
from tdxstack.services.verifier.evidence import MAX_BODY, read_evidence
from tdxstack.services.verifier.nonces import UsedNonces
from tdxstack.services.verifier.openapi import document
from tdxstack.services.verifier.rate import RateLimit

log = logging.getLogger("tdxstack.verifier")

FORGET_SECONDS = 60
METRICS = {
    "verifier_requests_total": ("counter", "Requests, by route and status."),
    "verifier_request_seconds_total": ("counter", "Time spent on requests, by route."),
    "verifier_challenges_total": ("counter", "Challenges that were given."),
    "verifier_attestations_total": ("counter", "Attestations that were judged, by result and policy."),
    "verifier_used_nonces": ("gauge", "Challenges that are kept because they were used."),
}
_NO_STORE = {"cache-control": "no-store"}
Handler = Callable[[Request], Awaitable[Response]]


class Routes:
    """The handlers."""

    def __init__(self, attestation: Attestation, used: UsedNonces, limit: RateLimit) -> None:
        self._attestation = attestation
        self._used = used
        self._limit = limit
        self._metrics = Metrics(METRICS)

    def routes(self) -> list[Route]:
        """Paths and methods."""
        return [
            self._route("/v1/challenge", self.challenge, "POST"),
            self._route("/v1/attest", self.attest, "POST"),
            self._route("/v1/policies", self.policies),
            self._route("/.well-known/jwks.json", self.jwks),
            self._route("/healthz", self.healthz),
            self._route("/readyz", self.readyz),
            self._route("/metrics", self.numbers),
            self._route("/openapi.json", self.openapi),
        ]

    def _route(self, path: str, handler: Handler, method: str = "GET") -> Route:
        async def counted(request: Request) -> Response:
            started = time.perf_counter()
            try:
                response = await handler(request)
            except Exception as error:  # noqa: BLE001  # whatever it is, it is answered, counted and logged
                response = answer_of(request, error)
            self._metrics.add("verifier_request_seconds_total", time.perf_counter() - started, route=path)
            self._metrics.add("verifier_requests_total", route=path, status=str(response.status_code))
            return response

        return Route(path, counted, methods=[method])

    async def challenge(self, request: Request) -> Response:
        self._limited(request)
        nonce, ends = self._attestation.nonces.issue()
        self._metrics.add("verifier_challenges_total")
        text = base64.urlsafe_b64encode(nonce).rstrip(b"=").decode()
        return JSONResponse({"nonce": text, "expires": ends}, headers=_NO_STORE)

    async def attest(self, request: Request) -> Response:
        self._limited(request)
        data = await _body(request)
        return JSONResponse(await run_in_threadpool(self._judge, data), headers=_NO_STORE)

    def _judge(self, data: bytes) -> dict[str, Any]:
        evidence = read_evidence(data)
        result = self._attestation.attest(evidence)
        said = "accepted" if result.accepted else "rejected"
        self._metrics.add("verifier_attestations_total", result=said, policy=evidence.policy)
        return {
            "token": result.token,
            "accepted": result.accepted,
            "status": result.status,
            "policy": result.policy,
            "failed": list(result.failed),
            "event_log": result.logs.event_log,
            "ima_list": result.logs.ima,
        }

    async def policies(self, _: Request) -> Response:
        rows = [{"name": name, "id": identifier} for name, identifier in self._attestation.policies.items()]
        return JSONResponse({"policies": rows})

    async def jwks(self, _: Request) -> Response:
        return JSONResponse({"keys": self._attestation.jwks}, headers={"cache-control": "max-age=300"})

    async def healthz(self, _: Request) -> Response:
        return Response("ok\n", media_type="text/plain")

    async def readyz(self, _: Request) -> Response:
        await run_in_threadpool(self._used.check)
        return Response("ready\n", media_type="text/plain")

    async def numbers(self, _: Request) -> Response:
        self._metrics.set("verifier_used_nonces", await run_in_threadpool(self._used.check))
        return Response(self._metrics.text(), media_type=metrics_format.CONTENT_TYPE)

    async def openapi(self, _: Request) -> Response:
        return JSONResponse(document())

    def _limited(self, request: Request) -> None:
        seconds = self._limit.wait(request.client.host if request.client else "")
        if seconds:
            raise TooOften(math.ceil(seconds))

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """While the application runs, nonces whose time is over are dropped."""
        task = asyncio.create_task(self._forget())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _forget(self) -> None:
        while True:
            try:
                await run_in_threadpool(self._used.forget, int(self._attestation.now()))
            except SystemFault as error:
                log.warning("%s", error.message)
            await asyncio.sleep(FORGET_SECONDS)


class TooOften(Refusal):
    """429; ``seconds`` until it may be tried again."""

    def __init__(self, seconds: int) -> None:
        super().__init__(Status.TOO_MANY_REQUESTS, f"Wait {seconds} s.")
        self.seconds = seconds


def create_app(attestation: Attestation, used: UsedNonces, limit: RateLimit) -> Starlette:
    """The ASGI application."""
    routes = Routes(attestation, used, limit)
    return Starlette(
        routes=routes.routes(),
        lifespan=routes.lifespan,
        exception_handlers={HTTPException: _no_route, Exception: _crashed},
    )


def answer_of(request: Request, error: Exception) -> Response:
    """What a fault is answered with."""
    if isinstance(error, TooOften):
        return _refusal(error.status, error.text, {"retry-after": str(error.seconds)})
    if isinstance(error, Refusal):
        return _refusal(error.status, error.text)
    if isinstance(error, TdxStackError):
        log.error("%s: %s", request.url.path, error.message)
        status = Status.UNAVAILABLE if isinstance(error, SystemFault) else Status.INTERNAL_ERROR
        return _refusal(status, MEANINGS[status])
    log.exception("%s", request.url.path, exc_info=error)
    return _refusal(Status.INTERNAL_ERROR, MEANINGS[Status.INTERNAL_ERROR])


def _refusal(status: Status, text: str, headers: dict[str, str] | None = None) -> Response:
    body = {"error": status.name.lower(), "detail": text}
    return JSONResponse(body, status_code=int(status), headers={**_NO_STORE, **(headers or {})})


async def _no_route(_: Request, error: Exception) -> Response:
    """404 and 405, which have no route of their own."""
    status = getattr(error, "status_code", 404)
    name = "not_found" if status == 404 else "method_not_allowed"
    return JSONResponse(
        {"error": name, "detail": "See /openapi.json."}, status_code=status, headers=getattr(error, "headers", None)
    )


async def _crashed(request: Request, error: Exception) -> Response:
    return answer_of(request, error)


async def _body(request: Request) -> bytes:
    found = bytearray()
    async for part in request.stream():
        found += part
        if len(found) > MAX_BODY:
            raise Refusal(Status.CONTENT_TOO_LARGE)
    return bytes(found)

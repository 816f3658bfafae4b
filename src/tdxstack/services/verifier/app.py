"""Routes of the verifier."""

from __future__ import annotations

import base64
import logging
import math
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tdxstack.errors import SystemFault, TdxStackError
from tdxstack.services import metrics as metrics_format
from tdxstack.services.metrics import Metrics
from tdxstack.services.pccs.refusal import MEANINGS, Refusal, Status
from tdxstack.services.verifier.attestation import Attestation
from tdxstack.services.verifier.evidence import read_evidence
from tdxstack.services.verifier.nonces import UsedNonces
from tdxstack.services.verifier.rate import RateLimit

log = logging.getLogger("tdxstack.verifier")

MAX_BODY = 2 << 20
METRICS = {
    "verifier_challenges_total": ("counter", "Challenges that were given."),
    "verifier_attestations_total": ("counter", "Attestations, by result."),
}


def create_app(attestation: Attestation, used: UsedNonces, limit: RateLimit) -> Starlette:
    """The ASGI application."""
    metrics = Metrics(METRICS)

    async def challenge(request: Request) -> Response:
        _limited(request, limit)
        nonce, ends = attestation.nonces.issue()
        metrics.add("verifier_challenges_total")
        text = base64.urlsafe_b64encode(nonce).rstrip(b"=").decode()
        return JSONResponse({"nonce": text, "expires": ends}, headers={"cache-control": "no-store"})

    async def attest(request: Request) -> Response:
        _limited(request, limit)
        data = await _body(request)

        def work() -> dict[str, Any]:
            result = attestation.attest(read_evidence(data))
            metrics.add("verifier_attestations_total", result="accepted" if result.accepted else "rejected")
            return {
                "token": result.token,
                "accepted": result.accepted,
                "status": result.status,
                "failed": list(result.failed),
                "event_log": result.log_fault,
            }

        return JSONResponse(await run_in_threadpool(work), headers={"cache-control": "no-store"})

    async def jwks(_: Request) -> Response:
        return JSONResponse({"keys": [attestation.jwk]}, headers={"cache-control": "max-age=300"})

    async def healthz(_: Request) -> Response:
        return Response("ok\n", media_type="text/plain")

    async def readyz(_: Request) -> Response:
        await run_in_threadpool(used.forget, int(attestation.now()))
        return Response("ready\n", media_type="text/plain")

    async def numbers(_: Request) -> Response:
        return Response(metrics.text(), media_type=metrics_format.CONTENT_TYPE)

    routes = [
        Route("/v1/challenge", challenge, methods=["POST"]),
        Route("/v1/attest", attest, methods=["POST"]),
        Route("/.well-known/jwks.json", jwks),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", numbers),
    ]
    return Starlette(routes=routes, exception_handlers={Refusal: _refused, TdxStackError: _failed})


def _limited(request: Request, limit: RateLimit) -> None:
    address = request.client.host if request.client else ""
    seconds = limit.wait(address)
    if seconds:
        raise Refusal(Status.TOO_MANY_REQUESTS, f"Wait {math.ceil(seconds)} s.")


async def _body(request: Request) -> bytes:
    found = bytearray()
    async for part in request.stream():
        found += part
        if len(found) > MAX_BODY:
            raise Refusal(Status.CONTENT_TOO_LARGE)
    return bytes(found)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)  # noqa: S101  # what the handler is registered for
    return JSONResponse({"error": error.status.name.lower(), "detail": error.text}, status_code=int(error.status))


async def _failed(request: Request, error: Exception) -> Response:
    log.error("%s: %s", request.url.path, error)
    status = Status.UNAVAILABLE if isinstance(error, SystemFault) else Status.INTERNAL_ERROR
    return JSONResponse({"error": status.name.lower(), "detail": MEANINGS[status]}, status_code=int(status))

"""The application: routes of Intel's PCCS REST interface, v3 and v4, and those of running it.

What is read most goes through :class:`~tdxstack.services.pccs.hot.Front` and does not come here every time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, Response
from starlette.concurrency import run_in_threadpool

from tdxstack import __version__
from tdxstack.errors import SystemFault, TdxStackError
from tdxstack.services import metrics as metrics_format
from tdxstack.services.pccs import routes_admin, routes_read
from tdxstack.services.pccs.hot import Front, changes_nothing
from tdxstack.services.pccs.refusal import MEANINGS, Refusal, Status
from tdxstack.services.pccs.service import Service

log = logging.getLogger("tdxstack.pccs")

DESCRIPTION = """Caching service for provisioning certificates and other collateral of Intel SGX and TDX, with
the REST interface of Intel's PCCS. Identifiers are hexadecimal in either case; certificate chains come in headers,
percent-encoded PEM."""


def create_app(service: Service) -> Front:
    """The ASGI application."""
    app = routes()
    app.state.service = service
    return Front(app, service.hot, service.metrics)


def routes() -> FastAPI:
    """All routes; they ask the service in ``app.state.service``."""
    app = FastAPI(
        title="tdxstack PCCS",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
    )
    for version in (3, 4):
        app.include_router(routes_read.sgx_router(version), prefix=f"/sgx/certification/v{version}")
        app.include_router(routes_admin.router(version), prefix=f"/sgx/certification/v{version}")
    app.include_router(routes_read.tdx_router(), prefix="/tdx/certification/v4")
    _add_operations(app)
    _add_errors(app)
    return app


def _add_operations(app: FastAPI) -> None:
    @app.get("/healthz", tags=["operation"], summary="Whether the process answers", response_class=PlainTextResponse)
    async def healthz() -> str:
        return "ok\n"

    @app.get(
        "/readyz",
        tags=["operation"],
        summary="Whether the database can be read",
        response_class=PlainTextResponse,
        responses={503: routes_read.plain(Status.UNAVAILABLE)},
    )
    def readyz() -> str:
        app.state.service.store.check()
        return "ready\n"

    @app.get(
        "/metrics",
        tags=["operation"],
        summary="Numbers for Prometheus",
        response_class=PlainTextResponse,
        responses={503: routes_read.plain(Status.UNAVAILABLE)},
    )
    def metrics() -> Response:
        return Response(app.state.service.measure(), media_type=metrics_format.CONTENT_TYPE)


def _text(status: Status, text: str) -> PlainTextResponse:
    return PlainTextResponse(text, status_code=int(status))


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(Refusal)
    async def refused(_: Request, refusal: Refusal) -> Response:
        return _text(refusal.status, refusal.text)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        names = sorted({str(one["loc"][-1]) for one in error.errors()})
        return _text(Status.INVALID_REQUEST, f"{MEANINGS[Status.INVALID_REQUEST]} Look at: {', '.join(names)}."[:500])

    @app.exception_handler(404)
    async def no_route(_: Request, __: Exception) -> Response:
        return PlainTextResponse("Not found.\n", status_code=404)

    @app.exception_handler(405)
    async def other_method(request: Request, _: Exception) -> Response:
        methods = sorted(method.upper() for method in app.openapi()["paths"].get(request.url.path, {}))
        if "GET" in methods and changes_nothing(request.url.path):
            methods.insert(1, "HEAD")
        return PlainTextResponse("Method not allowed.\n", status_code=405, headers={"Allow": ", ".join(methods)})

    @app.exception_handler(TdxStackError)
    async def failed(request: Request, error: TdxStackError) -> Response:
        log.error("%s %s: %s", request.method, request.url.path, error.message)
        status = Status.UNAVAILABLE if isinstance(error, SystemFault) else Status.INTERNAL_ERROR
        return _text(status, MEANINGS[status])

    @app.exception_handler(Exception)
    async def crashed(request: Request, error: Exception) -> Response:
        log.exception("%s %s", request.method, request.url.path, exc_info=error)
        return _text(Status.INTERNAL_ERROR, MEANINGS[Status.INTERNAL_ERROR])


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    tasks = [asyncio.create_task(_watch(service))]
    if service.settings.refresh_hours and service.settings.mode != "OFFLINE":
        tasks.append(asyncio.create_task(_refresh(service)))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _watch(service: Service) -> None:
    """Drop the answers in memory when any replica has written."""
    known: int | None = None
    while True:
        try:
            generation = await run_in_threadpool(service.store.check)
            if generation != known:
                service.hot.clear()
            known = generation
        except SystemFault as error:
            log.warning("%s", error.message)
        await asyncio.sleep(service.settings.poll_seconds)


async def _refresh(service: Service) -> None:
    """Fetch everything anew, once in ``refresh_hours``, by one replica."""
    seconds = service.settings.refresh_hours * 3600
    while True:
        await asyncio.sleep(min(seconds, 300))
        try:
            if await run_in_threadpool(service.store.take_lease, "refresh", seconds):
                failed: list[Any] = await run_in_threadpool(service.collateral.refresh)
                log.info("refreshed; %d failed%s", len(failed), "".join(f"\n  {line}" for line in failed))
        except (TdxStackError, Refusal) as error:
            log.warning("refresh: %s", error)

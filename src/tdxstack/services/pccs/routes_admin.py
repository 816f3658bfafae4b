"""Routes that change what is kept: for users (registration) and administrators, by token."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.security import APIKeyHeader
from starlette.concurrency import run_in_threadpool

from tdxstack.pcs.source import EARLY, STANDARD, EvaluationSet
from tdxstack.services.pccs import body
from tdxstack.services.pccs import parameters as p
from tdxstack.services.pccs.intake import Intake, check_platform
from tdxstack.services.pccs.policy import read_policy
from tdxstack.services.pccs.records import Registration
from tdxstack.services.pccs.refusal import MEANINGS, Refusal, Status
from tdxstack.services.pccs.routes_read import JSON, describe
from tdxstack.services.pccs.schema import State
from tdxstack.services.pccs.service import Service
from tdxstack.services.pccs.tokens import Token, TooManyGuesses

_HEX = "[0-9A-Fa-f]"
_PLATFORM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["qe_id", "pce_id"],
    "properties": {
        "qe_id": {"type": "string", "pattern": "^[!-~]{1,260}$"},
        "pce_id": {"type": "string", "pattern": f"^{_HEX}{{4}}$"},
        "cpu_svn": {"type": "string", "pattern": f"^{_HEX}{{32}}$"},
        "pce_svn": {"type": "string", "pattern": f"^{_HEX}{{4}}$"},
        "enc_ppid": {"type": "string", "pattern": f"^{_HEX}{{768}}$"},
        "platform_manifest": {"type": ["string", "null"], "pattern": "^[0-9A-Za-z+/=]*$", "maxLength": 131072},
    },
}
_COLLATERAL_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["platforms", "collaterals"],
    "properties": {
        "platforms": {"type": "array", "items": {"type": "object", "required": ["qe_id", "pce_id"]}},
        "collaterals": {
            "type": "object",
            "required": ["pck_certs", "tcbinfos", "certificates"],
            "properties": {
                "pck_certs": {"type": "array", "items": {"type": "object"}},
                "tcbinfos": {"type": "array", "items": {"type": "object", "required": ["fmspc"]}},
                "certificates": {"type": "object"},
            },
        },
    },
}
_POLICY_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["is_default", "fmspc", "policy"],
    "properties": {
        "is_default": {"type": "boolean"},
        "fmspc": {"type": "string", "pattern": f"^{_HEX}{{12}}$"},
        "policy": {"type": "string", "description": "JWT of an appraisal policy"},
    },
}
_TEXT = "text/plain"
_WRITING = (Status.UNAUTHORIZED, Status.TOO_MANY_REQUESTS, Status.CONTENT_TOO_LARGE)


def _request_body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _answers(media_type: str, *headers: str, also: tuple[Status, ...] = ()) -> dict[int | str, dict[str, Any]]:
    found = describe(media_type, *headers, also=(*_WRITING, *also))
    if media_type == JSON:
        found[200]["content"][JSON]["schema"] = {"type": "array", "items": {"type": "object"}}
    return found


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _check(configured: Token | None, token: str | None) -> None:
    try:
        if configured is None or not token or not configured.matches(token):
            raise Refusal(Status.UNAUTHORIZED)
    except TooManyGuesses:
        raise Refusal(Status.TOO_MANY_REQUESTS) from None


def user(
    request: Request, token: Annotated[str | None, Depends(APIKeyHeader(name="user-token", auto_error=False))]
) -> None:
    """Let users through. Raises Refusal (401)."""
    _check(_service(request).user_token, token)


def admin(
    request: Request, token: Annotated[str | None, Depends(APIKeyHeader(name="admin-token", auto_error=False))]
) -> None:
    """Let administrators through. Raises Refusal (401)."""
    _check(_service(request).admin_token, token)


async def _read(request: Request) -> bytes:
    """The body, as far as it may be long. Raises Refusal (413)."""
    limit = _service(request).settings.max_body_bytes
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > limit:
        raise Refusal(Status.CONTENT_TOO_LARGE)
    found = bytearray()
    async for part in request.stream():
        found += part
        if len(found) > limit:
            raise Refusal(Status.CONTENT_TOO_LARGE)
    return bytes(found)


async def _change(request: Request, work: Callable[[], Response]) -> Response:
    """Do the work in a thread; what was in memory before is dropped before the answer goes out."""
    try:
        return await run_in_threadpool(work)
    finally:
        _service(request).hot.clear()


def _done() -> Response:
    return PlainTextResponse(MEANINGS[Status.OK])


def router(version: int) -> APIRouter:
    """The routes below ``/sgx/certification/vN``."""
    found = APIRouter(tags=[f"SGX v{version}, with a token"], default_response_class=PlainTextResponse)
    _add_platforms(found)
    _add_collateral(found, version)
    _add_refresh(found)
    _add_policies(found)
    return found


def _add_platforms(found: APIRouter) -> None:
    @found.post(
        "/platforms",
        dependencies=[Depends(user)],
        summary="Register a platform",
        responses=_answers(_TEXT, also=(Status.CERTS_UNAVAILABLE,)),
        openapi_extra=_request_body(_PLATFORM_SCHEMA),
    )
    async def post_platforms(request: Request, update: p.UpdateOrAll = None) -> Response:
        data = await _read(request)

        def work() -> Response:
            _service(request).platforms.register(registration_of(data), evaluations_of(update))
            return _done()

        return await _change(request, work)

    @found.get(
        "/platforms",
        dependencies=[Depends(admin)],
        summary="Platforms that wait for their collateral, or that have it",
        responses=_answers(JSON, "platform-count"),
    )
    async def get_platforms(request: Request, source: p.PlatformSource = None) -> Response:
        return await _change(request, lambda: _listed(_service(request), source))


def registration_of(data: bytes) -> Registration:
    """The registration in a body. Raises Refusal (400)."""
    members, _ = body.load(data)
    fields = check_platform(members)
    if fields["platform_manifest"]:
        fields |= {"cpu_svn": "", "pce_svn": "", "enc_ppid": ""}
    elif not (fields["cpu_svn"] and fields["pce_svn"] and fields["enc_ppid"]):
        raise body.bad("Without platform_manifest, cpu_svn, pce_svn and enc_ppid are needed.")
    return Registration(**fields)


def evaluations_of(update: str | None) -> list[EvaluationSet]:
    """The evaluation sets that a registration asks for."""
    return [EARLY, STANDARD] if (update or "").lower() == "all" else [p.evaluation_of(update)]


def _listed(service: Service, source: str | None) -> Response:
    if source is None or source.startswith("reg"):
        state = State.NOT_AVAILABLE if source == "reg_na" else State.NEW
        rows = [dataclasses.asdict(one) for one in service.store.take_registrations(state)]
    else:
        rows = [
            {
                "qe_id": platform.qe_id,
                "pce_id": platform.pce_id,
                "cpu_svn": raw.cpu_svn,
                "pce_svn": raw.pce_svn,
                "enc_ppid": platform.enc_ppid,
                "platform_manifest": platform.platform_manifest,
            }
            for platform, raw in service.store.platforms(p.fmspcs_of(source))
        ]
    return JSONResponse(rows, headers={"platform-count": str(len(rows))})


def _add_collateral(found: APIRouter, version: int) -> None:
    @found.put(
        "/platformcollateral",
        dependencies=[Depends(admin)],
        summary="Bring collateral, as Intel's admin tool writes it",
        responses=_answers(_TEXT, also=(Status.INTEGRITY_ERROR, Status.CERTS_UNAVAILABLE)),
        openapi_extra=_request_body(_COLLATERAL_SCHEMA),
    )
    async def put_platformcollateral(request: Request) -> Response:
        data = await _read(request)
        service = _service(request)

        def work() -> Response:
            brought = Intake(data, version, service.collateral.admission, service.store).read()
            service.store.put_platforms(brought.platforms, brought.documents)
            service.collateral.upstream.forget()
            return _done()

        return await _change(request, work)


def _add_refresh(found: APIRouter) -> None:
    async def refresh(request: Request, type: p.RefreshType = None, fmspc: p.OptionalFmspcs = None) -> Response:
        service = _service(request)

        def work() -> Response:
            failed = service.platforms.refresh(p.fmspcs_of(fmspc)) if type else service.collateral.refresh()
            if failed:
                raise Refusal(Status.UNAVAILABLE, f"{len(failed)} failed: {'; '.join(failed)}"[:1000])
            return _done()

        return await _change(request, work)

    for method in ("POST", "GET"):
        found.add_api_route(
            "/refresh",
            refresh,
            methods=[method],
            dependencies=[Depends(admin)],
            summary="Fetch everything anew",
            responses=_answers(_TEXT),
            operation_id=f"refresh_{method.lower()}_{found.tags[0]}",
        )


def _add_policies(found: APIRouter) -> None:
    @found.put(
        "/appraisalpolicy",
        dependencies=[Depends(admin)],
        summary="Bring an appraisal policy",
        responses=_answers(_TEXT),
        openapi_extra=_request_body(_POLICY_SCHEMA),
    )
    async def put_appraisalpolicy(request: Request) -> Response:
        data = await _read(request)

        def work() -> Response:
            policy = read_policy(data)
            _service(request).store.put_policy(
                policy.identifier, int(policy.type), policy.fmspc, policy.is_default, policy.text
            )
            return PlainTextResponse(policy.identifier)

        return await _change(request, work)

    @found.get("/appraisalpolicy", summary="The default appraisal policies of an FMSPC", responses=describe(_TEXT))
    def get_appraisalpolicy(request: Request, fmspc: p.Fmspc) -> Response:
        policies = _service(request).store.default_policies(fmspc.upper())
        if not policies:
            raise Refusal(Status.NO_CACHE_DATA)
        return PlainTextResponse(",".join(policies))

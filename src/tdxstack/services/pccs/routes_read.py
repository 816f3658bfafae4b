"""Routes that read collateral: open to everybody, since all of it is public and signed."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response

from tdxstack.pcs.source import Enclave, EvaluationSet, Tee
from tdxstack.services.pccs import parameters as p
from tdxstack.services.pccs.admission import API_V4
from tdxstack.services.pccs.hot import KEEP_UNTIL
from tdxstack.services.pccs.records import Document, RawTcb
from tdxstack.services.pccs.refusal import MEANINGS, Status
from tdxstack.services.pccs.service import Service

JSON, PEM, CRL = "application/json", "application/x-pem-file", "application/pkix-crl"
_IDENTITY_CHAIN = "SGX-Enclave-Identity-Issuer-Chain"
_PCK_CHAIN = "SGX-PCK-Certificate-Issuer-Chain"
_CRL_CHAIN = "SGX-PCK-CRL-Issuer-Chain"
_NUMBERS_CHAIN = "TCB-Evaluation-Data-Numbers-Issuer-Chain"


def plain(status: Status) -> dict[str, Any]:
    """How OpenAPI describes an answer that is one line of text."""
    return {"description": MEANINGS[status], "content": {"text/plain": {"schema": {"type": "string"}}}}


_READING = (
    Status.INVALID_REQUEST,
    Status.NO_CACHE_DATA,
    Status.PCS_V3_GONE,
    Status.TOO_MANY_REQUESTS,
    Status.PCS_ACCESS_FAILURE,
    Status.UNAVAILABLE,
)


def describe(media_type: str, *headers: str, also: tuple[Status, ...] = ()) -> dict[int | str, dict[str, Any]]:
    """How OpenAPI describes the answers of a route."""
    schema = {"type": "object"} if media_type == JSON else {"type": "string"}
    found: dict[int | str, dict[str, Any]] = {
        200: {
            "description": MEANINGS[Status.OK],
            "content": {media_type: {"schema": schema}},
            "headers": {name: {"schema": {"type": "string"}, "required": True} for name in (*headers, "Request-ID")},
        }
    }
    for status in (*_READING, *also):
        found[int(status)] = plain(status)
    return found


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _answer(
    request: Request, document: Document, media_type: str, chain_header: str = "", body: bytes | None = None
) -> Response:
    """The document; until it expires it may be kept in memory."""
    now = _service(request).collateral.clock()
    request.scope[KEEP_UNTIL] = document.expires if document.expires > now else now + 5
    headers = {chain_header: quote(document.issuer_chain, safe="")} if chain_header else {}
    if document.expires < now:
        headers["Warning"] = '110 - "Response is Stale"'
    return Response(document.body if body is None else body, media_type=media_type, headers=headers)


def _tcb(request: Request, tee: Tee, version: int, fmspc: str, wanted: EvaluationSet) -> Response:
    document = _service(request).collateral.tcb_info(tee, fmspc.upper(), wanted, version)
    return _answer(request, document, JSON, tcb_chain_header(version))


def tcb_chain_header(version: int) -> str:
    """The header with the chain of a TCB info's signer."""
    return "TCB-Info-Issuer-Chain" if version == API_V4 else "SGX-TCB-Info-Issuer-Chain"


def _identity(request: Request, enclave: Enclave, version: int, wanted: EvaluationSet) -> Response:
    document = _service(request).collateral.identity(enclave, wanted, version)
    return _answer(request, document, JSON, _IDENTITY_CHAIN)


def sgx_router(version: int) -> APIRouter:
    """The routes below ``/sgx/certification/vN``."""
    router = APIRouter(tags=[f"SGX v{version}"], default_response_class=PlainTextResponse)
    _add_platform_routes(router)
    _add_crl_routes(router)
    _add_document_routes(router, version, Tee.SGX, Enclave.QE)

    @router.get(
        "/qve/identity", summary="Identity of the verification enclave", responses=describe(JSON, _IDENTITY_CHAIN)
    )
    def qve_identity(request: Request, update: p.Update = None, number: p.Number = None) -> Response:
        return _identity(request, Enclave.QVE, version, p.evaluation_of(update, number))

    return router


def tdx_router() -> APIRouter:
    """The routes below ``/tdx/certification/v4``."""
    router = APIRouter(tags=["TDX v4"], default_response_class=PlainTextResponse)
    _add_document_routes(router, API_V4, Tee.TDX, Enclave.TD_QE)
    return router


def _add_document_routes(router: APIRouter, version: int, tee: Tee, enclave: Enclave) -> None:
    @router.get("/tcb", summary="TCB info of an FMSPC", responses=describe(JSON, tcb_chain_header(version)))
    def tcb(request: Request, fmspc: p.Fmspc, update: p.Update = None, number: p.Number = None) -> Response:
        return _tcb(request, tee, version, fmspc, p.evaluation_of(update, number))

    @router.get("/qe/identity", summary="Identity of the quoting enclave", responses=describe(JSON, _IDENTITY_CHAIN))
    def qe_identity(request: Request, update: p.Update = None, number: p.Number = None) -> Response:
        return _identity(request, enclave, version, p.evaluation_of(update, number))

    if version != API_V4:
        return

    @router.get(
        "/tcbevaluationdatanumbers",
        summary="Evaluation data numbers that are served",
        responses=describe(JSON, _NUMBERS_CHAIN),
    )
    def evaluation_numbers(request: Request) -> Response:
        document = _service(request).collateral.evaluation_numbers(tee)
        return _answer(request, document, JSON, _NUMBERS_CHAIN)


def _add_crl_routes(router: APIRouter) -> None:
    @router.get("/pckcrl", summary="CRL of an intermediate CA", responses=_crl_answers(_CRL_CHAIN))
    def pckcrl(request: Request, ca: p.CaName, encoding: p.Encoding = None) -> Response:
        document = _service(request).collateral.pck_crl(p.ca_of(ca))
        if (encoding or "").lower() == "der":
            return _answer(request, document, CRL, _CRL_CHAIN)
        return _answer(request, document, PEM, _CRL_CHAIN, document.body.hex().encode())

    @router.get("/rootcacrl", summary="CRL of the root CA, hexadecimal", responses=describe(CRL))
    def rootcacrl(request: Request) -> Response:
        document = _service(request).collateral.root_ca_crl()
        return _answer(request, document, CRL, body=document.body.hex().encode())

    @router.get("/crl", summary="CRL of one of Intel's distribution points", responses=describe(CRL))
    def crl(request: Request, uri: p.CrlUri) -> Response:
        return _answer(request, _service(request).collateral.crl(p.check_crl_uri(uri)), CRL)


def _crl_answers(header: str) -> dict[int | str, dict[str, Any]]:
    found = describe(CRL, header)
    found[200]["content"][PEM] = {"schema": {"type": "string"}}
    return found


def _add_platform_routes(router: APIRouter) -> None:
    headers = ("SGX-TCBm", "SGX-FMSPC", "SGX-PCK-Certificate-CA-Type", _PCK_CHAIN)
    also = (Status.PLATFORM_UNKNOWN, Status.CERTS_UNAVAILABLE)

    @router.get("/pckcert", summary="PCK certificate of a platform", responses=describe(PEM, *headers, also=also))
    def pckcert(  # noqa: PLR0917  # the interface's parameters
        request: Request,
        qeid: p.QeId,
        cpusvn: p.CpuSvn,
        pcesvn: p.PceSvn,
        pceid: p.PceId,
        encrypted_ppid: p.EncPpid = None,
    ) -> Response:
        service = _service(request)
        raw = RawTcb(cpusvn.upper(), pcesvn.upper())
        ppid = (encrypted_ppid or "").upper()
        found = service.platforms.pck_certificate(qeid.upper(), pceid.upper(), raw, ppid)
        request.scope[KEEP_UNTIL] = service.collateral.clock() + 60
        values = (
            found.certificate.tcbm,
            found.platform.fmspc,
            found.platform.ca.value.upper(),
            quote(found.issuer_chain, safe=""),
        )
        return Response(found.certificate.pem, media_type=PEM, headers=dict(zip(headers, values, strict=True)))

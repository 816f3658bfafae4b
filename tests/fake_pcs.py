"""A PCS or PCCS made of one set of collateral, as an HTTP transport without a network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import httpx2

from tdxstack.dcap import Collateral
from tdxstack.pcs.client import PcsClient
from tdxstack.pcs.inspect import IDENTITY, TCB_INFO, response
from tdxstack.pcs.transport import Transport, TransportOptions

QUICK = TransportOptions(retries=3, backoff=0.01, deadline=5.0, max_bytes=1 << 20)


def load(folder: Path) -> Collateral:
    return Collateral.from_json((folder / "collateral.json").read_text())


class FakeService:
    """Answers what the set holds; counts requests; ``faults`` are answered first, one for each request."""

    def __init__(self, collateral: Collateral, *, hexadecimal: bool = False) -> None:
        self.collateral = collateral
        self.hexadecimal = hexadecimal
        self.requests: list[httpx2.Request] = []
        self.faults: list[httpx2.Response | Exception] = []
        self.pck: httpx2.Response | None = None

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        if self.faults:
            fault = self.faults.pop(0)
            if isinstance(fault, Exception):
                raise fault
            return fault
        return self._answer(request)

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        held = self.collateral
        path = request.url.path
        if path.endswith("/tcb"):
            if request.url.params["fmspc"] != json.loads(held.tcb_info)["fmspc"].upper():
                return httpx2.Response(404)
            body = response(TCB_INFO, held.tcb_info, held.tcb_info_signature)
            return httpx2.Response(
                200, content=body, headers={"TCB-Info-Issuer-Chain": quote(held.tcb_info_issuer_chain)}
            )
        if path.endswith("/identity"):
            body = response(IDENTITY, held.qe_identity, held.qe_identity_signature)
            chain = quote(held.qe_identity_issuer_chain)
            return httpx2.Response(200, content=body, headers={"SGX-Enclave-Identity-Issuer-Chain": chain})
        if path.endswith("/pckcrl"):
            chain = quote(held.pck_crl_issuer_chain)
            return httpx2.Response(200, content=self._crl(held.pck_crl), headers={"SGX-PCK-CRL-Issuer-Chain": chain})
        if path.endswith(("/rootcacrl", "/IntelSGXRootCA.der", "/crl")):
            return httpx2.Response(200, content=self._crl(held.root_ca_crl))
        if path.endswith("/pckcerts") and self.pck is not None:
            return self.pck
        return httpx2.Response(404)

    def _crl(self, text: str) -> bytes:
        return text.encode() if self.hexadecimal else bytes.fromhex(text)

    def client(
        self,
        url: str = "https://pccs.test:8081",
        options: TransportOptions = QUICK,
        sleep: Callable[[float], None] | None = None,
    ) -> PcsClient:
        transport = Transport(options, transport=httpx2.MockTransport(self), sleep=sleep or (lambda _: None))
        return PcsClient(url, transport=transport, api_key="key", user_token="token")

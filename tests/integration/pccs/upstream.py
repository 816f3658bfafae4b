"""A provisioning service on loopback: what ``fake_intel`` has, by HTTP, with the routes of Intel's PCS."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from fake_intel import FakeIntel, moment, pki
from tdxstack.errors import CollateralAbsent
from tdxstack.pcs.source import Ca, Enclave, EvaluationSet, PlatformIdentity, Tee
from tdxstack.platform.software.pki import make_crl

Found = tuple[bytes, dict[str, str]]


class UpstreamPcs:
    """Its state can be changed while it serves.

    ``status`` answers everything with that status; ``body`` stands for every body, ``hide`` names a header that is
    left out; ``asked`` has every path that was asked for.
    """

    def __init__(self, intel: FakeIntel) -> None:
        self.intel = intel
        self.status = 200
        self.body: bytes | None = None
        self.hide: str | None = None
        self.asked: list[str] = []
        self.url = ""

    def answer(self, path: str, query: dict[str, str], sent: dict[str, Any]) -> Found:
        """Raises CollateralAbsent for what there is not."""
        tee = Tee.TDX if path.startswith("/tdx/") else Tee.SGX
        route = path.partition("/v4/")[2]
        evaluation = EvaluationSet(query.get("update", "standard"))
        if route == "tcb":
            document = self.intel.tcb_info(tee, query["fmspc"], evaluation)
            return document.body, {"TCB-Info-Issuer-Chain": quote(document.issuer_chain)}
        if route.endswith("/identity"):
            enclave = Enclave.TD_QE if tee is Tee.TDX else Enclave.QVE if route.startswith("qve") else Enclave.QE
            document = self.intel.identity(enclave, evaluation)
            return document.body, {"SGX-Enclave-Identity-Issuer-Chain": quote(document.issuer_chain)}
        if route == "pckcrl" and query["ca"] == Ca.PROCESSOR:  # as Intel's: there is one of each CA
            return make_crl(pki().platform_ca, 1, moment(self.intel.issued), self.intel.lifetime), self._crl_chain()
        if route == "pckcrl":
            return self.intel.pck_crl(Ca(query["ca"])).der, self._crl_chain()
        if route == "rootcacrl":
            return self.intel.root_ca_crl().der, {}
        if route == "pckcerts":
            return self._certificates(query | sent)
        raise CollateralAbsent(path, "no such route")

    @staticmethod
    def _crl_chain() -> dict[str, str]:
        return {"SGX-PCK-CRL-Issuer-Chain": quote(pki().pck_crl_chain)}

    def _certificates(self, asked: dict[str, str]) -> Found:
        identity = PlatformIdentity(
            asked["pceid"], asked.get("encrypted_ppid", ""), asked.get("platformManifest", "")
        )
        found = self.intel.pck_certificates(identity)
        entries = [
            {"tcb": _tcb(one.tcbm), "tcbm": one.tcbm, "cert": quote(one.pem)} for one in found.certificates
        ] + [{"tcb": _tcb(one), "tcbm": one, "cert": "Not available"} for one in found.unavailable]
        headers = {
            "SGX-PCK-Certificate-Issuer-Chain": quote(found.issuer_chain),
            "SGX-FMSPC": found.fmspc,
            "SGX-PCK-Certificate-CA-Type": found.ca.value,
        }
        return json.dumps(entries).encode(), headers


def _tcb(tcbm: str) -> dict[str, int]:
    raw = bytes.fromhex(tcbm)
    svns = {f"sgxtcbcomp{index:02d}svn": svn for index, svn in enumerate(raw[:16], 1)}
    return {**svns, "pcesvn": int.from_bytes(raw[16:], "little")}


@contextmanager
def serving(intel: FakeIntel) -> Iterator[UpstreamPcs]:
    """Serve on a free port of loopback."""
    upstream = UpstreamPcs(intel)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self._reply({})

        def do_POST(self) -> None:
            self._reply(json.loads(self.rfile.read(int(self.headers["content-length"]))))

        def _reply(self, sent: dict[str, Any]) -> None:
            parts = urlsplit(self.path)
            upstream.asked.append(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            status, body = upstream.status, b""
            headers: dict[str, str] = {}
            if status == 200:
                try:
                    body, headers = upstream.answer(parts.path, query, sent)
                except CollateralAbsent:
                    status = 404
            if status == 200 and upstream.body is not None:
                body = upstream.body
            self.send_response(status)
            for name, value in headers.items():
                if name != upstream.hide:
                    self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    upstream.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield upstream
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

"""What LAZY and REQ fetch, and what they say of an upstream that will not give it, beside Intel's own PCCS.

Intel's takes the root CA's CRL from Intel's distribution point alone, so a refresh cannot be compared here, and a
registration only if an administrator has brought that CRL.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from benchmarks import intel_pccs
from cryptography.hazmat.primitives.serialization import Encoding

from fake_intel import FMSPC, LEVELS, PCE_ID, PPID, QE_ID, FakeIntel, pki, tcbm
from tdxstack.pcs.source import Ca

from . import upstream
from .beside import TDX, V3, V4, Both, beside, differences
from .conftest import Server
from .upstream import UpstreamPcs

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(intel_pccs.program() is None, reason=f"no {intel_pccs.DIRECTORY}: Intel's PCCS is not here"),
]
Asked = tuple[str, str, dict[str, Any]]


@pytest.fixture
def pcs() -> Iterator[UpstreamPcs]:
    intel = FakeIntel()
    intel.issued = int(time.time()) - 3600
    with upstream.serving(intel) as found:
        yield found


@pytest.fixture(params=["LAZY", "REQ"])
def both(
    request: pytest.FixtureRequest,
    pcs: UpstreamPcs,
    configure: Callable[..., Path],
    launch: Callable[[Path], Server],
    tmp_path: Path,
) -> Iterator[Both]:
    root = tmp_path / "root.pem"
    root.write_bytes(pki().root.certificate.public_bytes(Encoding.PEM))
    ours = launch(configure(mode=request.param, trust_roots=(str(root),), upstream=pcs.url))
    settings = {"uri": f"{pcs.url}/sgx/certification/v4/", "CachingFillMode": request.param}
    with beside(ours, tmp_path / "intel", {}, **settings) as found:
        yield found


def pckcert(raw: str, **query: str) -> Asked:
    return "GET", f"{V4}/pckcert", {"params": {"pceid": PCE_ID, "cpusvn": raw[:32], "pcesvn": raw[32:], **query}}


def registrations(user: dict[str, str]) -> list[Asked]:
    """Of platforms that upstream does not know."""
    best = tcbm(*LEVELS[0])
    body = {"qe_id": "CC", "pce_id": PCE_ID, "cpu_svn": best[:32], "pce_svn": best[32:], "enc_ppid": "CD" * 384}
    manifest = {"qe_id": "CC", "pce_id": PCE_ID, "platform_manifest": "DEAD"}
    zeros = {**body, "enc_ppid": "0" * 768}
    return [("POST", f"{V4}/platforms", {"json": one, "headers": user}) for one in (body, manifest, zeros)]


def reads() -> list[Asked]:
    best, middle = tcbm(*LEVELS[0]), tcbm(*LEVELS[1])
    found = [
        pckcert(best, qeid=QE_ID),  # without its PPID nobody can ask for it
        pckcert(best, qeid=QE_ID, encrypted_ppid="0" * 768),
        pckcert(best, qeid=QE_ID, encrypted_ppid="CD" * 384),
        pckcert("00" * 18, qeid=QE_ID, encrypted_ppid=PPID),  # below every certificate
        pckcert(middle, qeid=QE_ID),  # known by now
        pckcert(best, qeid=QE_ID, encrypted_ppid=PPID),
        pckcert("00" * 18, qeid=QE_ID),
        pckcert(middle, qeid="BB", encrypted_ppid=PPID),
    ]
    queries: list[dict[str, str]] = [{}, {"update": "early"}, {"update": "STANDARD"}, {"update": "x"}]
    found += [
        ("GET", f"{base}/tcb", {"params": {"fmspc": fmspc, **query}})
        for base in (V4, TDX)
        for fmspc in (FMSPC.lower(), "0" * 12)
        for query in queries
    ]
    paths = (f"{V4}/qe/identity", f"{V4}/qve/identity", f"{TDX}/qe/identity")
    found += [("GET", path, {"params": query}) for path in paths for query in queries]
    found += [("GET", f"{V3}/tcb", {"params": {"fmspc": FMSPC}}), ("GET", f"{V3}/qe/identity", {})]
    return [*found, ("GET", f"{V3}/pckcert", pckcert(middle, qeid=QE_ID)[2])]


def differing(both: Both, asked: list[Asked]) -> dict[str, list[str]]:
    return {
        f"{method} {path} {str(words)[:200]}": lines
        for method, path, words in asked
        if (lines := differences(*both.ask(method, path, **words)))
    }


def rows(answer: httpx2.Response) -> list[list[tuple[str, str]]]:
    """Platforms, sorted; hexadecimal in whatever case."""
    found = sorted(sorted((name, (value or "").upper()) for name, value in one.items()) for one in answer.json())
    assert answer.headers["platform-count"] == str(len(found))
    return found


def test_what_is_fetched_is_intels(both: Both) -> None:
    assert not differing(both, [*reads(), *reads(), *registrations(both.tokens["user"])])
    for source in ("reg", "reg_na", f"[{FMSPC}]", "[]"):
        words = {"params": {"source": source}, "headers": both.tokens["admin"]}
        ours, intels = (rows(answer) for answer in both.ask("GET", f"{V4}/platforms", **words))
        assert ours == intels, source


def root_crl_alone(intel: FakeIntel) -> dict[str, Any]:
    """What an administrator brings so that Intel's need not ask Intel for the root CA's CRL."""
    chains = {"PROCESSOR": "", "PLATFORM": quote(pki().pck_crl_chain)}
    names = ("TCB-Info-Issuer-Chain", "SGX-Enclave-Identity-Issuer-Chain")
    return {
        "platforms": [],
        "collaterals": {
            "version": 4,
            "pck_certs": [],
            "tcbinfos": [],
            "pckcacrl": {"processorCrl": "", "platformCrl": intel.pck_crl(Ca.PLATFORM).der.hex()},
            "certificates": {
                "SGX-PCK-Certificate-Issuer-Chain": chains,
                **dict.fromkeys(names, quote(pki().tcb_signing_chain)),
            },
            "rootcacrl": intel.root_ca_crl().der.hex(),
        },
    }


def test_registrations_are_intels(both: Both, pcs: UpstreamPcs) -> None:
    user, admin = both.tokens["user"], both.tokens["admin"]
    best, low = tcbm(*LEVELS[0]), "00" * 18
    body = {"qe_id": QE_ID, "pce_id": PCE_ID, "cpu_svn": best[:32], "pce_svn": best[32:], "enc_ppid": PPID}
    manifest = {"qe_id": "CC", "pce_id": PCE_ID, "platform_manifest": "BEEF"}
    below = {**body, "qe_id": "DD", "cpu_svn": low[:32], "pce_svn": low[32:]}
    asked: list[Asked] = [("PUT", f"{V4}/platformcollateral", {"json": root_crl_alone(pcs.intel), "headers": admin})]
    for one in (body, body, manifest, below):
        asked += [
            ("POST", f"{V4}/platforms", {"json": one, "headers": user, "params": {"update": update}})
            for update in ("standard", "early", "all", "x")
        ]
    asked += [pckcert(best, qeid=QE_ID), pckcert(best, qeid="CC"), pckcert(low, qeid="DD"), pckcert(best, qeid="DD")]
    asked += [("GET", f"{TDX}/tcb", {"params": {"fmspc": FMSPC, "update": one}}) for one in ("early", "standard")]
    asked += [("GET", f"{TDX}/qe/identity", {"params": {"update": one}}) for one in ("early", "standard")]
    assert not differing(both, asked)
    for source in ("reg", "reg_na", "[]"):
        words = {"params": {"source": source}, "headers": admin}
        ours, intels = (rows(answer) for answer in both.ask("GET", f"{V4}/platforms", **words))
        assert ours == intels, source


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_what_upstream_will_not_give_is_absent(both: Both, pcs: UpstreamPcs, status: int) -> None:
    pcs.status = status
    best = tcbm(*LEVELS[0])
    asked = [
        ("GET", f"{TDX}/tcb", {"params": {"fmspc": FMSPC}}),
        ("GET", f"{V4}/qve/identity", {}),
        ("GET", f"{V4}/pckcrl", {"params": {"ca": "platform"}}),
        pckcert(best, qeid=QE_ID, encrypted_ppid=PPID),
        *registrations(both.tokens["user"]),
    ]
    assert not differing(both, asked)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"tcbInfo":{},"signature":"00"}', b"\xff" * 64])
def test_what_does_not_hold_is_refused_here_and_served_there(both: Both, pcs: UpstreamPcs, body: bytes) -> None:
    pcs.body = body
    for path in (f"{TDX}/tcb?fmspc={FMSPC}", f"{V4}/qe/identity", f"{V4}/pckcrl?ca=platform"):
        ours, intels = both.ask("GET", path)
        if ours.status_code == 404:  # REQ
            assert intels.status_code == 404
        else:
            assert (ours.status_code, intels.status_code) == (502, 200)
            assert ours.text.startswith("Unable to retrieve the collateral")

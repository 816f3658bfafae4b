"""The reading routes in the three modes: what is answered, with which headers, and when upstream is asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from urllib.parse import unquote

import pytest

from fake_intel import FMSPC, LEVELS, NOW, extension, moment, pki
from tdxstack.errors import CollateralAbsent
from tdxstack.pcs.source import Crl, Enclave, SignedDocument, Tee
from tdxstack.platform.software.pki import make_crl, make_pki
from tdxstack.services.pccs.caching import BURST

from .conftest import Api

Start = Callable[..., Api]
SGX, TDX, V3 = "/sgx/certification/v4", "/tdx/certification/v4", "/sgx/certification/v3"
ROOT_URI = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"

DOCUMENTS = [
    (f"{SGX}/tcb", {"fmspc": FMSPC.lower()}, "TCB-Info-Issuer-Chain"),
    (f"{TDX}/tcb", {"fmspc": FMSPC, "update": "EARLY"}, "TCB-Info-Issuer-Chain"),
    (f"{TDX}/tcb", {"fmspc": FMSPC, "tcbEvaluationDataNumber": "16"}, "TCB-Info-Issuer-Chain"),
    (f"{SGX}/qe/identity", {}, "SGX-Enclave-Identity-Issuer-Chain"),
    (f"{SGX}/qve/identity", {"update": "Standard"}, "SGX-Enclave-Identity-Issuer-Chain"),
    (f"{TDX}/qe/identity", {"tcbEvaluationDataNumber": "16"}, "SGX-Enclave-Identity-Issuer-Chain"),
    (f"{TDX}/tcbevaluationdatanumbers", {}, "TCB-Evaluation-Data-Numbers-Issuer-Chain"),
]


@pytest.mark.parametrize(("path", "query", "header"), DOCUMENTS)
def test_a_document_is_fetched_once_and_served_as_it_was_signed(
    api: Api, path: str, query: dict[str, str], header: str
) -> None:
    first = api.get(path, **query)
    asked = len(api.intel.asked)
    again = api.get(path, **query)
    assert (first.status_code, again.status_code) == (200, 200)
    assert unquote(first.headers[header]) == pki().tcb_signing_chain
    assert first.headers["content-type"] == "application/json"
    assert first.content == again.content
    assert len(api.intel.asked) == asked
    assert first.headers["request-id"] != again.headers["request-id"]
    kept = api.service.store.documents()
    assert [document.body for document in kept] == [first.content]


def test_the_sets_are_apart(api: Api) -> None:
    numbers = {
        query: json.loads(api.get(f"{TDX}/tcb", fmspc=FMSPC, **dict([query])).content)["tcbInfo"][
            "tcbEvaluationDataNumber"
        ]
        for query in (("update", "standard"), ("update", "early"), ("tcbEvaluationDataNumber", "12"))
    }
    assert list(numbers.values()) == [17, 18, 12]


def test_crls_come_in_der_or_hexadecimal(api: Api) -> None:
    der = api.get(f"{SGX}/pckcrl", ca="platform", encoding="der")
    text = api.get(f"{SGX}/pckcrl", ca="PLATFORM")
    assert (der.headers["content-type"], text.headers["content-type"]) == (
        "application/pkix-crl",
        "application/x-pem-file",
    )
    assert bytes.fromhex(text.text) == der.content
    assert unquote(der.headers["SGX-PCK-CRL-Issuer-Chain"]) == pki().pck_crl_chain
    assert api.get(f"{SGX}/pckcrl", ca="processor").status_code == 404
    root = api.get(f"{SGX}/rootcacrl")
    assert bytes.fromhex(root.text)[:1] == b"\x30"
    assert api.get(f"{SGX}/crl", uri=ROOT_URI).content[:1] == b"\x30"


@pytest.mark.parametrize(
    "uri",
    [
        "http://certificates.trustedservices.intel.com/IntelSGXRootCA.der",
        "https://certificates.trustedservices.intel.com.evil.test/IntelSGXRootCA.der",
        "https://evil.test/?https://certificates.trustedservices.intel.com/IntelSGXRootCA.der",
        "https://certificates.trustedservices.intel.com@evil.test/IntelSGXRootCA.der",
        "https://a@certificates.trustedservices.intel.com/IntelSGXRootCA.der",
        "https://certificates.trustedservices.intel.com:8443/IntelSGXRootCA.der",
        "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der/../other",
        "https://xcertificates.trustedservices.intel.com/IntelSGXRootCA.der",
        "https://x.certificates.trustedservices.intel.com/IntelSGXRootCA.der",
        "https://api.trustedservices.intel.com/sgx/certification/v4/pckcrl",
        "https://xapi.trustedservices.intel.com/sgx/certification/v4/pckcrl?ca=platform",
        "https://169.254.169.254/latest",
        "https://[::1/",
        "https://" + "a" * 3000,
    ],
)
def test_no_other_uri_is_fetched(api: Api, uri: str) -> None:
    assert api.get(f"{SGX}/crl", uri=uri).status_code == 400
    assert api.intel.asked == []


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/tcb", {}),
        ("/tcb", {"fmspc": "xyz"}),
        ("/tcb", {"fmspc": FMSPC + "0"}),
        ("/tcb", {"fmspc": FMSPC, "update": "late"}),
        ("/tcb", {"fmspc": FMSPC, "update": "early", "tcbEvaluationDataNumber": "17"}),
        ("/tcb", {"fmspc": FMSPC, "tcbEvaluationDataNumber": "-1"}),
        ("/tcb", {"fmspc": FMSPC, "tcbEvaluationDataNumber": "1e3"}),
        ("/pckcrl", {}),
        ("/pckcrl", {"ca": "other"}),
        ("/pckcert", {"qeid": "A"}),
        ("/pckcert", {"qeid": "A\0", "cpusvn": "0" * 32, "pcesvn": "0000", "pceid": "0000"}),
    ],
)
def test_parameters_that_are_not_valid(api: Api, path: str, query: dict[str, str]) -> None:
    answer = api.get(SGX + path, **query)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "text/plain; charset=utf-8")


def test_the_first_of_several_values_counts(api: Api) -> None:
    answer = api.call("GET", f"{TDX}/tcb?fmspc={FMSPC}&update=early&fmspc=000000000000&update=x")
    assert json.loads(answer.content)["tcbInfo"]["tcbEvaluationDataNumber"] == 18


def test_lazy_asks_anew_for_what_has_expired_and_serves_it_if_it_must(api: Api) -> None:
    first = api.get(f"{TDX}/tcb", fmspc=FMSPC)
    api.service.hot.clear()
    api.clock.now = NOW + 40 * 86400
    api.intel.down = True
    stale = api.get(f"{TDX}/tcb", fmspc=FMSPC)
    assert stale.content == first.content
    assert "Stale" in stale.headers["warning"]
    api.intel.down = False
    api.intel.issued = NOW + 39 * 86400
    api.service.collateral.upstream.forget()
    api.service.hot.clear()
    renewed = api.get(f"{TDX}/tcb", fmspc=FMSPC)
    assert renewed.content != first.content
    assert "warning" not in renewed.headers


def test_what_upstream_lacks_is_404_and_what_it_cannot_give_502(api: Api) -> None:
    assert api.get(f"{TDX}/tcb", fmspc="000000000000").status_code == 404
    asked = len(api.intel.asked)
    assert api.get(f"{TDX}/tcb", fmspc="000000000000").status_code == 404
    assert len(api.intel.asked) == asked, "strangers' requests must not become a flood upstream"
    api.intel.down = True
    assert api.get(f"{TDX}/qe/identity").status_code == 502


@pytest.mark.parametrize(("status", "told"), [(401, True), (400, True), (404, False), (None, False)])
def test_what_upstream_will_not_give_is_in_the_log(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, status: int | None, told: bool
) -> None:
    def refuse(*_: object) -> None:
        raise CollateralAbsent("tcb", "upstream said no", status=status)

    monkeypatch.setattr(api.intel, "tcb_info", refuse)
    assert api.get(f"{TDX}/tcb", fmspc=FMSPC).status_code == 404
    assert ("upstream said no" in caplog.text) == told


def test_strangers_cannot_make_a_flood_upstream(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tdxstack.services.pccs.caching.PER_SECOND", 0)
    statuses = [api.get(f"{TDX}/tcb", fmspc=f"{number:012X}").status_code for number in range(BURST + 5)]
    assert statuses == [404] * BURST + [429] * 5
    assert len(api.intel.asked) == BURST
    query = {"qeid": "A", "cpusvn": "0" * 32, "pcesvn": "0000", "pceid": "0000", "encrypted_ppid": "A" * 768}
    assert api.get(f"{SGX}/pckcert", **query).status_code == 429


@pytest.mark.parametrize("mode", ["REQ", "OFFLINE"])
def test_other_modes_never_ask_for_what_is_read(start: Start, mode: str) -> None:
    api = start(mode)
    for path, query, _ in DOCUMENTS:
        assert api.get(path, **query).status_code == 404
    query = {"qeid": "A", "cpusvn": "0" * 32, "pcesvn": "0000", "pceid": "0000"}
    assert api.get(f"{SGX}/pckcert", **query).status_code == 461
    assert api.intel.asked == []


def test_version_3_has_ended_but_what_is_kept_is_served(start: Start) -> None:
    api = start()
    assert api.get(f"{V3}/tcb", fmspc=FMSPC).status_code == 410
    assert api.get(f"{V3}/qe/identity").status_code == 410
    assert api.get(f"{V3}/rootcacrl").status_code == 200
    document = api.service.collateral.admission.tcb(
        api.intel.tcb_info(Tee.SGX, FMSPC), Tee.SGX, FMSPC, "standard", version=3
    )
    api.service.store.put_documents([document])
    answer = api.get(f"{V3}/tcb", fmspc=FMSPC)
    assert (answer.status_code, "SGX-TCB-Info-Issuer-Chain" in answer.headers) == (200, True)


def test_a_document_that_is_not_signed_under_a_trusted_root_is_not_kept(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = api.intel.identity(Enclave.TD_QE)

    def forged(*_: object) -> object:
        return SignedDocument(good.body.replace(b'"isvsvn":4', b'"isvsvn":1'), good.issuer_chain)

    monkeypatch.setattr(api.intel, "identity", forged)
    assert api.get(f"{TDX}/qe/identity").status_code == 502
    assert api.service.store.documents() == []


def test_a_root_crl_that_the_root_did_not_sign_is_not_kept(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of the two routes it is asked for by."""
    other = make_pki("test", extension(*LEVELS[0]), moment())
    assert other.root.certificate.subject == pki().root.certificate.subject
    forged = Crl(make_crl(other.root, 2, moment(), api.intel.lifetime))
    monkeypatch.setattr(api.intel, "root_ca_crl", lambda: forged)
    assert api.get(f"{SGX}/rootcacrl").status_code == 502
    assert api.get(f"{SGX}/crl", uri=ROOT_URI).status_code == 502
    assert api.service.store.documents() == []


def test_another_documents_name_is_not_taken(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    other = api.intel.identity(Enclave.QVE)
    monkeypatch.setattr(api.intel, "identity", lambda *_: other)
    assert api.get(f"{TDX}/qe/identity").status_code == 502
    assert api.get(f"{SGX}/qve/identity").status_code == 200


def test_operation_routes(api: Api) -> None:
    assert api.get("/healthz").text == "ok\n"
    assert api.get("/readyz").text == "ready\n"
    api.get(f"{TDX}/tcb", fmspc=FMSPC)
    api.get(f"{TDX}/tcb", fmspc=FMSPC)
    text = api.get("/metrics").text
    assert 'pccs_documents{kind="tcb"} 1' in text
    assert "pccs_hot_answers_total 1" in text
    assert 'pccs_upstream_requests_total{result="fetched"} 1' in text
    assert 'pccs_requests_total{method="GET",status="200"}' in text


def test_a_database_that_is_gone_is_said(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    from tdxstack.errors import SystemFault

    def gone(*_: object) -> int:
        raise SystemFault("database: gone")

    monkeypatch.setattr(type(api.service.store), "check", gone)
    monkeypatch.setattr(type(api.service.store), "document", gone)
    assert api.get("/readyz").status_code == 503
    assert api.get("/healthz").status_code == 200
    assert api.get(f"{TDX}/qe/identity").status_code == 503


def test_other_methods_and_paths(api: Api) -> None:
    assert api.call("DELETE", f"{SGX}/tcb").status_code == 405
    assert api.call("DELETE", f"{SGX}/refresh").headers["allow"] == "GET, POST"
    assert api.call("DELETE", f"{SGX}/rootcacrl").headers["allow"] == "GET, HEAD"
    assert api.get("/sgx/certification/v5/tcb").status_code == 404
    assert api.get("/tdx/certification/v3/tcb").status_code == 404

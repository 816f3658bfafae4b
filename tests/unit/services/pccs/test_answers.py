"""Statuses and texts as clients know them from Intel's PCCS, in every mode; what of version 3 is left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fake_intel import FMSPC, FakeIntel
from tdxstack.pcs.source import Enclave
from unit.services.pccs.conftest import Api
from unit.services.pccs.test_platforms import collateral

V3, V4 = "/sgx/certification/v3", "/sgx/certification/v4"
PCKCERT = {"qeid": "0" * 32, "cpusvn": "0" * 32, "pcesvn": "0000", "pceid": "0000"}

TEXTS = {
    200: "Operation successful.",
    400: "Invalid request parameters.",
    401: "Authentication failed.",
    404: "No cache data for this platform.",
    413: "Content too large.",
    460: "The integrity of the data can't be verified.",
    461: "The platform was not found in the cache.",
    502: "Unable to retrieve the collateral from the Intel SGX PCS.",
    503: "Server is currently unable to process the request.",
}

CASES: list[tuple[str, str, str, dict[str, Any], int]] = [
    ("OFFLINE", "GET", "/tcb", {"params": {"fmspc": FMSPC}}, 404),
    ("REQ", "GET", "/tcb", {"params": {"fmspc": FMSPC}}, 404),
    ("LAZY", "GET", "/tcb", {"params": {"fmspc": FMSPC}}, 200),
    ("LAZY", "GET", "/tcb", {"params": {"fmspc": "0" * 12}}, 404),
    ("LAZY", "GET", "/tcb", {"params": {"fmspc": "x"}}, 400),
    ("LAZY", "GET", "/tcb", {}, 400),
    ("LAZY", "GET", "/pckcrl", {"params": {"ca": "root"}}, 400),
    ("REQ", "GET", "/pckcrl", {"params": {"ca": "platform"}}, 404),
    ("REQ", "GET", "/rootcacrl", {}, 404),
    ("OFFLINE", "GET", "/qve/identity", {}, 404),
    ("OFFLINE", "GET", "/pckcert", {"params": PCKCERT}, 461),
    ("REQ", "GET", "/pckcert", {"params": PCKCERT}, 461),
    ("LAZY", "GET", "/pckcert", {"params": PCKCERT}, 400),
    ("LAZY", "GET", "/crl", {"params": {"uri": "https://example.org/x.crl"}}, 400),
    ("LAZY", "GET", "/appraisalpolicy", {"params": {"fmspc": FMSPC}}, 404),
    ("LAZY", "POST", "/platforms", {"json": {}}, 401),
    ("LAZY", "GET", "/platforms", {}, 401),
    ("LAZY", "PUT", "/platformcollateral", {"json": {}}, 401),
    ("LAZY", "POST", "/refresh", {}, 401),
    ("LAZY", "GET", "/refresh", {}, 401),
    ("LAZY", "PUT", "/appraisalpolicy", {"json": {}}, 401),
]


@pytest.mark.parametrize(("mode", "method", "path", "words", "status"), CASES)
def test_status_and_text(
    start: Callable[..., Api], mode: str, method: str, path: str, words: dict[str, Any], status: int
) -> None:
    answer = start(mode).call(method, V4 + path, **words)
    assert answer.status_code == status, answer.text
    assert len(answer.headers["request-id"]) == 32
    if status != 200:
        assert answer.text.startswith(TEXTS[status])
        assert answer.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(
    ("mode", "method", "path", "words", "status"),
    [
        ("OFFLINE", "POST", "/refresh", {}, 503),
        ("LAZY", "POST", "/refresh", {}, 200),
        ("LAZY", "GET", "/refresh", {"params": {"type": "certs", "fmspc": "all"}}, 200),
        ("LAZY", "POST", "/refresh", {"params": {"type": "other"}}, 400),
        ("LAZY", "GET", "/platforms", {"params": {"source": "x"}}, 400),
        ("LAZY", "PUT", "/platformcollateral", {"content": b"{}"}, 400),
        ("LAZY", "PUT", "/platformcollateral", {"content": b"{" + b" " * (3 << 20)}, 413),
        ("LAZY", "PUT", "/appraisalpolicy", {"content": b"{}"}, 400),
    ],
)
def test_status_and_text_for_an_administrator(
    start: Callable[..., Api], mode: str, method: str, path: str, words: dict[str, Any], status: int
) -> None:
    answer = start(mode).admin(method, V4 + path, **words)
    assert (answer.status_code, answer.text.startswith(TEXTS[status])) == (status, True), answer.text
    assert status != 200 or answer.text == TEXTS[200]


def test_upstream_that_fails_is_502(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    from tdxstack.errors import CollateralUnreachable

    def fail(*_: Any) -> None:
        raise CollateralUnreachable("tcb", "no route to host")

    monkeypatch.setattr(api.intel, "tcb_info", fail)
    answer = api.get(f"{V4}/tcb", fmspc=FMSPC)
    assert (answer.status_code, answer.text) == (502, TEXTS[502])


def test_what_is_left_of_version_3(start: Callable[..., Api], intel: FakeIntel) -> None:
    """It is brought by an administrator; the answer warns, since nobody will refresh it."""
    api = start("LAZY")
    gone = api.get(f"{V3}/qe/identity")
    assert (gone.status_code, "3" in gone.text) == (410, True)
    body = collateral(intel)
    body["collaterals"]["tcbinfos"], body["collaterals"]["pck_certs"] = [], []
    assert api.admin("PUT", f"{V3}/platformcollateral", json=body).status_code == 200
    kept = api.get(f"{V3}/qe/identity")
    assert (kept.status_code, kept.content) == (200, intel.identity(Enclave.QE).body)
    assert kept.headers["warning"].startswith("299 - ")
    assert "warning" not in api.get(f"{V4}/qe/identity").headers


def test_requests_as_intels_pccs_takes_them(api: Api) -> None:
    """Any case, a slash at the end, HEAD, any encoding but der as hexadecimal."""
    expected = api.get(f"{V4}/rootcacrl")
    for path in (f"{V4}/rootcacrl/", f"{V4.upper()}/RootCaCrl"):
        assert api.get(path).content == expected.content
    head = api.call("HEAD", f"{V4}/rootcacrl")
    assert (head.status_code, head.headers["content-type"]) == (200, expected.headers["content-type"])
    assert api.call("HEAD", f"{V4}/platforms").status_code == 405
    for encoding in ("pem", "x", ""):
        assert bytes.fromhex(api.get(f"{V4}/pckcrl", ca="platform", encoding=encoding).text)[:1] == b"\x30"
    nowhere = api.get(f"{V4}/nowhere")
    assert (nowhere.status_code, nowhere.text) == (404, "Not found.\n")


@pytest.mark.parametrize("path", ["/pckcrl?ca=platform", "/rootcacrl", "/rootcacrl", "/tcb", "/qe/identity"])
def test_all_of_version_3_warns(api: Api, path: str) -> None:
    """Also from memory, and where it refuses."""
    assert api.get(f"{V3}{path}").headers["warning"].startswith("299 - ")
    assert "warning" not in api.get(f"{V4}{path}").headers

"""The client: what it asks, what it takes, what it refuses, and how often it tries."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_pcs import QUICK, FakeService
from tdxstack.errors import CollateralAbsent, CollateralError, CollateralUnreachable, UsageError
from tdxstack.pcs.client import INTEL_PCS, Dialect, PcsClient, check_fmspc
from tdxstack.pcs.collateral import Wanted, fetch
from tdxstack.pcs.source import EARLY, Ca, Enclave, EvaluationSet, PlatformIdentity, Tee
from tdxstack.pcs.transport import TransportOptions

WANTED = Wanted("B0C06F000000")


def test_a_fetched_set_is_the_published_one_byte_for_byte(service: FakeService) -> None:
    assert fetch(service.client(), WANTED) == service.collateral


def test_a_pccs_may_answer_crls_in_hexadecimal(service: FakeService) -> None:
    service.hexadecimal = True
    assert fetch(service.client(), WANTED) == service.collateral


@pytest.mark.parametrize("url", [INTEL_PCS, f"{INTEL_PCS}/sgx/certification/v4/", "https://h:1/sgx/certification/v3"])
def test_the_url_may_have_the_api_path(service: FakeService, url: str) -> None:
    client = service.client(url)
    client.identity(Enclave.TD_QE, EARLY)
    asked = service.requests[-1].url
    assert asked.path == "/tdx/certification/v4/qe/identity"
    assert dict(asked.params) == {"update": "early"}


def test_intel_serves_the_root_crl_elsewhere(service: FakeService) -> None:
    service.client(INTEL_PCS).root_ca_crl()
    assert service.requests[-1].url.host == "certificates.trustedservices.intel.com"
    service.client("https://pccs.test").root_ca_crl()
    assert service.requests[-1].url.path == "/sgx/certification/v4/rootcacrl"
    assert Dialect.of("https://trustedservices.intel.com.evil.test") is Dialect.PCCS


def test_a_numbered_set_is_asked_for_by_its_number(service: FakeService) -> None:
    wanted = Wanted("B0C06F000000", evaluation=EvaluationSet("17"))
    assert fetch(service.client(), wanted) == service.collateral
    assert service.requests[0].url.params["tcbEvaluationDataNumber"] == "17"
    with pytest.raises(CollateralError, match="asked for evaluation data number 18, it served 17"):
        fetch(service.client(), Wanted("B0C06F000000", evaluation=EvaluationSet("18")))


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_passing_fault_is_tried_again(service: FakeService, status: int) -> None:
    waits: list[float] = []
    service.faults = [httpx2.Response(status), httpx2.ConnectError("refused")]
    service.client(sleep=waits.append).pck_crl(Ca.PLATFORM)
    assert len(service.requests) == 3
    assert 0 < waits[0] < waits[1] + 0.02


def test_retry_after_is_heeded_but_not_for_ever(service: FakeService) -> None:
    waits: list[float] = []
    service.faults = [httpx2.Response(429, headers={"retry-after": "3"})]
    service.client(sleep=waits.append).pck_crl(Ca.PLATFORM)
    assert waits == [3.0]
    service.faults = [httpx2.Response(503, headers={"retry-after": "86400"})]
    with pytest.raises(CollateralUnreachable, match="503"):
        service.client(sleep=waits.append).pck_crl(Ca.PLATFORM)
    assert waits == [3.0]


def test_it_gives_up(service: FakeService) -> None:
    service.faults = [httpx2.Response(503) for _ in range(9)]
    with pytest.raises(CollateralUnreachable) as caught:
        service.client().pck_crl(Ca.PLATFORM)
    assert caught.value.status == 503
    assert len(service.requests) == 1 + QUICK.retries


@pytest.mark.parametrize("status", [400, 401, 404, 410, 461])
def test_a_refusal_is_final(service: FakeService, status: int) -> None:
    service.faults = [httpx2.Response(status, headers={"error-message": "said why"})]
    with pytest.raises(CollateralAbsent, match="said why") as caught:
        service.client().tcb_info(Tee.TDX, "B0C06F000000")
    assert (caught.value.status, len(service.requests)) == (status, 1)


def test_a_redirect_is_not_followed(service: FakeService) -> None:
    service.faults = [httpx2.Response(302, headers={"location": "http://169.254.169.254/"})]
    with pytest.raises(CollateralUnreachable, match="302"):
        service.client().pck_crl(Ca.PLATFORM)
    assert len(service.requests) == 1


def test_an_endless_answer_is_cut_off(service: FakeService) -> None:
    service.faults = [httpx2.Response(200, content=b"x" * 2_000_000)]
    with pytest.raises(CollateralUnreachable, match="more than 1048576 bytes"):
        service.client().pck_crl(Ca.PLATFORM)


def test_an_answer_without_its_chain_is_refused(service: FakeService) -> None:
    service.faults = [httpx2.Response(200, content=b"0\x00")]
    with pytest.raises(CollateralUnreachable, match="no tcb-info-issuer-chain"):
        service.client().tcb_info(Tee.TDX, "B0C06F000000")


def test_any_answer_is_taken_or_refused() -> None:
    bodies: list[bytes] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        chain = {
            "tcb-info-issuer-chain": "%ZZ",
            "sgx-enclave-identity-issuer-chain": "x",
            "sgx-pck-crl-issuer-chain": "x",
        }
        return httpx2.Response(200, content=bodies[-1], headers=chain)

    from tdxstack.pcs.transport import Transport

    client = PcsClient("https://x", transport=Transport(QUICK, transport=httpx2.MockTransport(answer)))

    @given(st.binary(max_size=300))
    def ask(body: bytes) -> None:
        bodies.append(body)
        for call in (
            lambda: fetch(client, WANTED),
            lambda: client.pck_certificates(PlatformIdentity("0000", "00")),
            client.fmspcs,
            lambda: client.pck_crl(Ca.PLATFORM),
        ):
            with suppress(CollateralError):
                call()

    ask()


def _pck(entries: object, **headers: str) -> httpx2.Response:
    named = {"SGX-FMSPC": "b0c06f000000", "SGX-PCK-Certificate-CA-Type": "platform"} | headers
    named["SGX-PCK-Certificate-Issuer-Chain"] = quote("-----BEGIN CERTIFICATE-----")
    return httpx2.Response(200, content=json.dumps(entries).encode(), headers=named)


def test_pck_certificates_are_split_into_what_there_is_and_is_not(service: FakeService) -> None:
    service.pck = _pck([{"tcbm": "ab" * 18, "cert": "a%0Ab"}, {"tcbm": "cd" * 18, "cert": "Not available"}])
    found = service.client().pck_certificates(PlatformIdentity("0000", enc_ppid="00" * 384))
    assert [(c.tcbm, c.pem) for c in found.certificates] == [("AB" * 18, "a\nb")]
    assert found.unavailable == ("CD" * 18,)
    assert (found.fmspc, found.ca) == ("B0C06F000000", Ca.PLATFORM)
    request = service.requests[-1]
    assert request.method == "GET"
    assert request.headers["ocp-apim-subscription-key"] == "key"


def test_a_manifest_is_posted(service: FakeService) -> None:
    service.pck = _pck([{"tcbm": "ab" * 18, "cert": "x"}])
    service.client().pck_certificates(PlatformIdentity("0000", manifest="beef"))
    request = service.requests[-1]
    assert (request.method, json.loads(request.content)) == ("POST", {"platformManifest": "beef", "pceid": "0000"})


@pytest.mark.parametrize(
    "answer",
    [
        _pck({}),
        _pck([{"tcbm": "xy", "cert": "c"}]),
        _pck([{"cert": "c"}]),
        _pck([1]),
        _pck([{"tcbm": "ab" * 18, "cert": "c"}] * 300),
        _pck([{"tcbm": "ab" * 18, "cert": "c"}], **{"SGX-FMSPC": "?"}),
        _pck([{"tcbm": "ab" * 18, "cert": "c"}], **{"SGX-PCK-Certificate-CA-Type": "other"}),
    ],
)
def test_pck_certificates_that_are_none(service: FakeService, answer: httpx2.Response) -> None:
    service.pck = answer
    with pytest.raises(CollateralUnreachable):
        service.client().pck_certificates(PlatformIdentity("0000", "00"))


def test_registration_is_sent_with_the_token(service: FakeService) -> None:
    service.faults = [httpx2.Response(201)]
    service.client().register({"qe_id": "AA"})
    request = service.requests[-1]
    assert (request.headers["user-token"], json.loads(request.content)) == ("token", {"qe_id": "AA"})


@pytest.mark.parametrize("url", ["", "host", "ftp://host", "https://", "file:///etc/passwd"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(UsageError):
        PcsClient(url)


@pytest.mark.parametrize("fmspc", ["", "00806F05000", "00806F05000g", "00806F050000\n", "00806F0500001"])
def test_fmspcs_that_are_none(fmspc: str) -> None:
    with pytest.raises(UsageError):
        check_fmspc(fmspc)


@pytest.mark.parametrize("name", ["", "late", "-1", "1.5", "17\n", "1234567890"])
def test_evaluation_sets_that_are_none(name: str) -> None:
    with pytest.raises(UsageError):
        EvaluationSet(name)


def test_a_ca_file_without_certificates(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_text("none")
    with pytest.raises(UsageError, match="no CA certificates"):
        PcsClient("https://x", options=TransportOptions(ca_file=path))

"""PCKIDRetrievalTool's CSV, and Intel's registration service."""

from __future__ import annotations

import contextlib

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import CollateralAbsent, UsageError
from tdxstack.pcs.registration import PlatformId, RegistrationService, read_csv, write_csv
from tdxstack.pcs.transport import Transport, TransportOptions
from tdxstack.wire.sgx_registration import RequestType, ServerRequest


def digits(count: int) -> st.SearchStrategy[str]:
    return st.text("0123456789ABCDEF", min_size=count, max_size=count)


WITH_PPID = st.builds(PlatformId, digits(768), digits(4), digits(32), digits(4), digits(32))
MANIFESTS = st.binary(min_size=1, max_size=40).map(lambda data: data.hex().upper())
WITH_MANIFEST = st.builds(PlatformId, digits(768), digits(4), digits(32), digits(4), digits(32), MANIFESTS)
NO_ENCLAVE = st.builds(PlatformId, st.just(""), st.just("0000"), st.just(""), st.just(""), digits(32), MANIFESTS)


@given(st.lists(WITH_PPID | WITH_MANIFEST | NO_ENCLAVE, min_size=1, max_size=3))
def test_csv_goes_round(platforms: list[PlatformId]) -> None:
    assert read_csv(write_csv(platforms)) == platforms


def test_bodies() -> None:
    one = PlatformId("AA" * 384, "0000", "00" * 16, "0B00", "CD" * 16)
    assert one.to_body() == {
        "qe_id": "CD" * 16,
        "pce_id": "0000",
        "cpu_svn": "00" * 16,
        "pce_svn": "0B00",
        "enc_ppid": "AA" * 384,
    }
    other = PlatformId("", "0000", "", "", "CD" * 16, "BEEF")
    assert other.to_body() == {"qe_id": "CD" * 16, "pce_id": "0000", "platform_manifest": "BEEF"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        "a,b",
        f"{'A' * 768},0000,{'0' * 32},0000",
        f"{'A' * 767}G,0000,{'0' * 32},0000,{'0' * 32}",
        f"{'A' * 768},0000,,0000,{'0' * 32}",
        f"{'A' * 768},000,{'0' * 32},0000,{'0' * 32}",
        f",0000,,,{'0' * 30}",
        f",0000,,,{'0' * 32},BEE",
        f",0000,,,{'0' * 32},BEEF,more",
        "x" * (1 << 21),
        "9" * 200_000,
    ],
)
def test_csv_that_is_none(text: str) -> None:
    with pytest.raises(UsageError):
        read_csv(text)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(UsageError):
        read_csv(text)


def service(
    answers: list[httpx2.Response], seen: list[httpx2.Request], key: str | None = None
) -> RegistrationService:
    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return answers.pop(0)

    options = TransportOptions(retries=2, backoff=0.0)
    transport = Transport(options, transport=httpx2.MockTransport(answer), sleep=lambda _: None)
    return RegistrationService("https://intel.test/", api_key=key, transport=transport)


def test_a_manifest_is_sent_as_it_is() -> None:
    seen: list[httpx2.Request] = []
    found = service([httpx2.Response(503), httpx2.Response(201, content=b"0011")], seen)
    assert found.send(ServerRequest(RequestType.PLATFORM, b"manifest")) == b"0011"
    assert (seen[1].url.path, seen[1].content) == ("/sgx/registration/v1/platform", b"manifest")
    assert seen[1].headers["content-type"] == "application/octet-stream"


def test_adding_a_package_needs_the_key() -> None:
    seen: list[httpx2.Request] = []
    request = ServerRequest(RequestType.ADD_PACKAGE, b"add")
    with pytest.raises(UsageError, match="subscription key"):
        service([], seen).send(request)
    service([httpx2.Response(200)], seen, "key").send(request)
    assert (seen[0].url.path, seen[0].headers["ocp-apim-subscription-key"]) == ("/sgx/registration/v1/package", "key")


def test_a_refusal() -> None:
    with pytest.raises(CollateralAbsent, match="400"):
        service([httpx2.Response(400)], []).send(ServerRequest(RequestType.PLATFORM, b"x"))

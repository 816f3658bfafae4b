"""Challenge, attest, token: the whole way without a network, judged with other people's eyes."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tdxstack.pcs.cache import Cache
from tdxstack.platform.software.platform import SoftwarePlatform
from tdxstack.platform.software.td import TrustDomain
from tdxstack.services.pccs.software import SoftwareSource
from tdxstack.services.verifier.nonces import NonceRefused, Nonces, UsedNonces
from tdxstack.services.verifier.rate import RateLimit
from tdxstack.services.verifier.settings import SETTINGS_FILE, Service, Settings, initialise, open_service
from unit.platform.software.conftest import run_td


class Client:
    def __init__(self, service: Service) -> None:
        self.service = service

    def post(self, path: str, body: Any = None, content: bytes | None = None) -> httpx2.Response:
        return self.call("POST", path, json=body) if content is None else self.call("POST", path, content=content)

    def call(self, method: str, path: str, **kwargs: Any) -> httpx2.Response:
        async def once() -> httpx2.Response:
            transport = httpx2.ASGITransport(app=self.service.app, raise_app_exceptions=False)
            async with httpx2.AsyncClient(transport=transport, base_url="http://verifier") as client:
                return await client.request(method, path, **kwargs)

        return asyncio.run(once())

    def nonce(self) -> str:
        return str(self.post("/v1/challenge").json()["nonce"])


def decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@pytest.fixture
def platform() -> SoftwarePlatform:
    return SoftwarePlatform.create("lab")


@pytest.fixture
def td(platform: SoftwarePlatform) -> TrustDomain:
    return run_td(platform.module())


@pytest.fixture
def client(platform: SoftwarePlatform, tmp_path: Path) -> Iterator[Client]:
    root = tmp_path / "root.der"
    root.write_bytes(platform.trust_root())
    path = initialise(tmp_path / "verifier", Settings(trust_roots=[str(root)], burst=10_000))["settings"]
    service = open_service(Settings.load(path), Cache(tmp_path / "cache"), source=SoftwareSource(platform))
    yield Client(service)
    service.close()


def evidence(platform: SoftwarePlatform, td: TrustDomain, nonce: str, held: bytes = b"") -> dict[str, str]:
    report_data = hashlib.sha512(decode(nonce) + held).digest()
    quote = platform.quoting_enclave().quote(td.mr_report(report_data).to_bytes())
    body = {"nonce": nonce, "quote": base64.b64encode(quote).decode()}
    return body | ({"held_data": base64.b64encode(held).decode()} if held else {})


def verified(client: Client, token: str) -> dict[str, Any]:
    """The token's claims, checked with the published key and nothing of ours."""
    jwk = client.call("GET", "/.well-known/jwks.json").json()["keys"][0]
    numbers = ec.EllipticCurvePublicNumbers(
        int.from_bytes(decode(jwk["x"]), "big"), int.from_bytes(decode(jwk["y"]), "big"), ec.SECP384R1()
    )
    header, payload, signature = token.split(".")
    raw = decode(signature)
    der = utils.encode_dss_signature(int.from_bytes(raw[:48], "big"), int.from_bytes(raw[48:], "big"))
    numbers.public_key().verify(der, f"{header}.{payload}".encode(), ec.ECDSA(hashes.SHA384()))
    assert json.loads(decode(header))["kid"] == jwk["kid"]
    claims: dict[str, Any] = json.loads(decode(payload))
    return claims


@pytest.mark.parametrize("held", [b"", b"a public key"])
def test_evidence_for_the_challenge_gets_a_token(
    client: Client, platform: SoftwarePlatform, td: TrustDomain, held: bytes
) -> None:
    nonce = client.nonce()
    answer = client.post("/v1/attest", evidence(platform, td, nonce, held))
    assert answer.status_code == 200, answer.text
    claims = verified(client, answer.json()["token"])
    assert claims["eat_nonce"] == nonce
    assert answer.json()["status"] == "UpToDate"
    assert "binding.report_data" not in answer.json()["failed"]
    assert claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"]["software"] is True


def test_a_nonce_is_used_once(client: Client, platform: SoftwarePlatform, td: TrustDomain) -> None:
    body = evidence(platform, td, client.nonce())
    assert client.post("/v1/attest", body).status_code == 200
    again = client.post("/v1/attest", body)
    assert (again.status_code, again.json()["error"]) == (409, "conflict")
    assert "used before" in again.json()["detail"]


def test_evidence_for_another_challenge_is_not_accepted(
    client: Client, platform: SoftwarePlatform, td: TrustDomain
) -> None:
    body = evidence(platform, td, client.nonce())
    other = client.post("/v1/attest", body | {"nonce": client.nonce()})
    assert other.status_code == 200
    assert (other.json()["accepted"], "binding.report_data" in other.json()["failed"]) == (False, True)
    claims = verified(client, other.json()["token"])
    assert claims["submods"]["cpu0"]["ear.status"] == "contraindicated"


def test_a_quote_that_cannot_be_read_uses_no_nonce(
    client: Client, platform: SoftwarePlatform, td: TrustDomain
) -> None:
    body = evidence(platform, td, client.nonce())
    for wrong in ({"quote": "AAAA"}, {"policy": "none-of-that-name"}, {"event_log": "AAAA"}):
        assert client.post("/v1/attest", body | wrong).status_code == 400
    assert client.post("/v1/attest", body).status_code == 200


def test_nonces_of_others(client: Client, platform: SoftwarePlatform, td: TrustDomain) -> None:
    own = decode(client.nonce())
    for wrong in (
        bytes(40),
        own[:-1] + bytes([own[-1] ^ 1]),
        own[:16] + b"\xff" * 8 + own[24:],
        own[:39],
        own + b"x",
    ):
        nonce = base64.urlsafe_b64encode(wrong).rstrip(b"=").decode()
        assert client.post("/v1/attest", evidence(platform, td, nonce)).status_code == 409
    assert client.post("/v1/attest", evidence(platform, td, client.nonce())).status_code == 200


def test_an_event_log_that_does_not_replay(
    client: Client, platform: SoftwarePlatform, td: TrustDomain, vectors: Path
) -> None:
    log = (vectors / "measurement" / "parser" / "CCEL_data_ovmf").read_bytes()
    body = evidence(platform, td, client.nonce()) | {"event_log": base64.b64encode(log).decode()}
    answer = client.post("/v1/attest", body)
    assert answer.status_code == 200
    assert (answer.json()["accepted"], answer.json()["event_log"].startswith("RTMR0")) == (False, True)
    submodule = verified(client, answer.json()["token"])["submods"]["cpu0"]
    assert submodule["ear.status"] == "contraindicated"


def test_collateral_that_is_not_to_be_had(client: Client, vectors: Path) -> None:
    quote = (vectors / "attestation" / "real" / "dcapqvl-tdx-v4" / "quote.bin").read_bytes()
    body = {"nonce": client.nonce(), "quote": base64.b64encode(quote).decode()}
    assert client.post("/v1/attest", body).status_code == 502


@pytest.mark.parametrize(
    "change",
    [{"quote": ""}, {"quote": "!"}, {"quote": "AAAA"}, {"quote": 1}, {"nonce": None}, {"event_log": "AAAA"}],
)
def test_requests_that_are_none(client: Client, platform: SoftwarePlatform, td: TrustDomain, change: Any) -> None:
    body = evidence(platform, td, client.nonce()) | change
    assert client.post("/v1/attest", body).status_code == 400


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(st.binary(max_size=300))
def test_any_body_is_refused(client: Client, data: bytes) -> None:
    assert client.post("/v1/attest", content=data).status_code == 400


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=12)
@given(data=st.data())
def test_any_damaged_quote_is_judged_or_refused(
    client: Client, platform: SoftwarePlatform, td: TrustDomain, data: st.DataObject
) -> None:
    nonce = client.nonce()
    body = evidence(platform, td, nonce)
    quote = bytearray(base64.b64decode(body["quote"]))
    used = 636 + int.from_bytes(quote[632:636], "little")
    chain = quote.index(b"-----BEGIN") - 6
    at = data.draw(st.integers(0, used - 2))
    quote[at] ^= data.draw(st.integers(1, 255))
    answer = client.post("/v1/attest", body | {"quote": base64.b64encode(quote).decode()})
    assert answer.status_code in (200, 400, 502)
    # What no signature covers may change without harm: white space between the certificates, and what says how long
    # and of what type the parts around them are.
    assert at >= chain or at in range(632, 636) or not answer.json().get("accepted")


def test_too_long_a_body(client: Client) -> None:
    assert client.post("/v1/attest", content=b"x" * (9 << 20)).status_code == 413


def test_replicas_share_what_was_used(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/used.db"
    now = [1000.0]
    one, two = (Nonces(bytes(32), 60, UsedNonces(url), lambda: now[0]) for _ in range(2))
    nonce, ends = one.issue()
    two.take(nonce)
    with pytest.raises(NonceRefused, match="used before"):
        one.take(nonce)
    late, _ = one.issue()
    now[0] = ends + 1
    with pytest.raises(NonceRefused, match="over"):
        two.take(late)
    with pytest.raises(NonceRefused, match="not one of"):
        Nonces(b"x" * 32, 60, UsedNonces(url), lambda: now[0]).take(late)


def test_a_nonce_from_before_the_machine_started_is_over(tmp_path: Path) -> None:
    used = UsedNonces(f"sqlite:///{tmp_path}/used.db")
    nonce, _ = Nonces(bytes(32), 60, used, lambda: 1000).issue()
    with pytest.raises(NonceRefused, match="over"):
        Nonces(bytes(32), 60, used, lambda: 1030, booted=1010).take(nonce)
    Nonces(bytes(32), 60, used, lambda: 1030, booted=990).take(nonce)
    used.close()


def test_the_rate_of_one_address_is_limited() -> None:
    now = [0.0]
    limit = RateLimit(2, 3, lambda: now[0])
    assert [limit.wait("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert limit.wait("b") == 0
    now[0] = 0.5
    assert (limit.wait("a"), limit.wait("a") > 0) == (0, True)


def test_the_limit_is_kept(platform: SoftwarePlatform, tmp_path: Path) -> None:
    path = initialise(tmp_path / "v", Settings(burst=2, requests_per_second=0.001))["settings"]
    service = open_service(Settings.load(path), Cache(tmp_path / "c"), source=SoftwareSource(platform))
    statuses = [Client(service).post("/v1/challenge").status_code for _ in range(4)]
    service.close()
    assert statuses == [200, 200, 429, 429]


def test_the_token_key_is_the_owners(tmp_path: Path) -> None:
    path = initialise(tmp_path / "v", Settings())["settings"]
    assert path.name == SETTINGS_FILE
    assert (tmp_path / "v" / "token.key").stat().st_mode & 0o777 == 0o600

"""Policies, tokens by another library, metrics, limits, the published interface; the store under many at once."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from tdxstack.dcap import ear
from tdxstack.errors import EvidenceRejected, StateError, SystemFault, UsageError
from tdxstack.pcs.cache import Cache
from tdxstack.platform.software.platform import SoftwarePlatform
from tdxstack.platform.software.td import TrustDomain
from tdxstack.services.settings_file import write_settings
from tdxstack.services.verifier.nonces import UsedNonces
from tdxstack.services.verifier.openapi import document
from tdxstack.services.verifier.settings import Settings, initialise, open_service
from unit.platform.software.conftest import run_td
from unit.services.verifier.test_verifier import Client, evidence


@pytest.fixture
def platform() -> SoftwarePlatform:
    return SoftwarePlatform.create("lab")


@pytest.fixture
def td(platform: SoftwarePlatform) -> TrustDomain:
    return run_td(platform.module())


@pytest.fixture
def client(platform: SoftwarePlatform, tmp_path: Path) -> Iterator[Client]:
    """A verifier that is told of the platform by name, with two policies."""
    (tmp_path / "pinned.toml").write_text('name = "pinned"\n[td]\nmr_tds = ["%s"]\n' % ("00" * 48))
    settings = Settings(
        pccs="platform:lab",
        trust_roots=["platform:lab"],
        policies=[f"pinned={tmp_path / 'pinned.toml'}"],
        burst=40,
        requests_per_second=0.01,
    )
    path = initialise(tmp_path / "verifier", settings)["settings"]
    service = open_service(Settings.load(path), Cache(tmp_path / "cache"))
    yield Client(service)
    service.close()


def test_joserfc_verifies_the_token(client: Client, platform: SoftwarePlatform, td: TrustDomain) -> None:
    nonce = client.nonce()
    answer = client.post("/v1/attest", evidence(platform, td, nonce)).json()
    keys = KeySet.import_key_set(client.call("GET", "/.well-known/jwks.json").json())
    token = jwt.decode(answer["token"], keys, algorithms=["ES384"])
    assert token.claims["eat_nonce"] == nonce
    assert token.claims["submods"]["cpu0"]["ear.appraisal-policy-id"] == answer["policy"]


def test_the_token_key_is_changed_without_a_gap(platform: SoftwarePlatform, td: TrustDomain, tmp_path: Path) -> None:
    """Two replicas, one with the old key and one with the new one: challenges and tokens of either hold with both."""
    both = Settings(pccs="platform:lab", trust_roots=["platform:lab"], database=f"sqlite:///{tmp_path}/used.db")
    old, new = (initialise(tmp_path / name, both)["settings"] for name in ("old", "new"))
    clients = []
    for path, other in ((old, new), (new, old)):
        settings = Settings.load(path)
        settings = dataclasses.replace(settings, other_token_keys=[str(other.with_name("token.key"))])
        path.write_text(write_settings(settings))
        clients.append(Client(open_service(Settings.load(path), Cache(tmp_path / "cache"))))
    sets = [client.call("GET", "/.well-known/jwks.json").json() for client in clients]
    assert sets[0]["keys"] == sets[1]["keys"][::-1]
    for asked, judge in (clients, clients[::-1]):
        body = evidence(platform, td, asked.nonce())
        token = judge.post("/v1/attest", body).json()["token"]
        for keys in sets:
            assert jwt.decode(token, KeySet.import_key_set(keys), algorithms=["ES384"]).claims["eat_nonce"]
        assert asked.post("/v1/attest", body).status_code == 409
    for client in clients:
        client.service.close()


def test_the_policy_is_the_requests_choice(client: Client, platform: SoftwarePlatform, td: TrustDomain) -> None:
    known = {row["name"]: row["id"] for row in client.call("GET", "/v1/policies").json()["policies"]}
    assert set(known) == {"default", "pinned"}
    for name, identifier in known.items():
        for _ in range(2):  # the nonce is no part of the id
            answer = client.post("/v1/attest", evidence(platform, td, client.nonce()) | {"policy": name}).json()
            assert answer["policy"] == identifier
            assert ("td.mr_tds" in answer["failed"]) is (name == "pinned")
    nonce = client.nonce()
    refused = client.post("/v1/attest", evidence(platform, td, nonce) | {"policy": "other"})
    assert (refused.status_code, "other" in refused.json()["detail"]) == (400, True)
    assert client.post("/v1/attest", evidence(platform, td, nonce)).status_code == 200, "the nonce was not used up"


def test_metrics_count_what_was_done(client: Client, platform: SoftwarePlatform, td: TrustDomain) -> None:
    body = evidence(platform, td, client.nonce())
    for _ in range(2):
        client.post("/v1/attest", body)
    text = client.call("GET", "/metrics").text
    assert 'verifier_requests_total{route="/v1/attest",status="200"} 1' in text
    assert 'verifier_requests_total{route="/v1/attest",status="409"} 1' in text
    assert "verifier_challenges_total 1" in text
    assert "verifier_used_nonces 1" in text
    assert 'verifier_attestations_total{policy="default",result=' in text


def test_who_asks_too_often_is_told_when_to_come_again(client: Client) -> None:
    answers = [client.post("/v1/challenge") for _ in range(41)]
    assert [answer.status_code for answer in answers] == [200] * 40 + [429]
    assert int(answers[-1].headers["retry-after"]) > 90
    assert client.call("GET", "/healthz").status_code == 200


def test_every_route_is_in_the_published_interface(client: Client) -> None:
    published = client.call("GET", "/openapi.json").json()
    assert published == document()
    routes = {(route.path, method) for route in client.service.app.routes for method in route.methods}  # type: ignore[attr-defined]
    described = {(path, method.upper()) for path, item in published["paths"].items() for method in item}
    assert {pair for pair in routes if pair[1] != "HEAD"} - {("/openapi.json", "GET")} == described


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/attest", 405), ("GET", "/v2", 404)])
def test_what_is_not_there(client: Client, method: str, path: str, status: int) -> None:
    answer = client.call(method, path)
    assert (answer.status_code, "error" in answer.json()) == (status, True)
    assert status == 404 or answer.headers["allow"] == "POST"


def test_a_database_that_went_away_is_503(client: Client, platform: SoftwarePlatform, td: TrustDomain) -> None:
    body = evidence(platform, td, client.nonce())

    def broken(nonce: bytes, ends: int) -> bool:
        raise SystemFault("database: gone")

    client.service.used.use = broken  # type: ignore[method-assign]
    answer = client.post("/v1/attest", body)
    assert (answer.status_code, answer.json()["error"], "gone" in answer.text) == (503, "unavailable", False)


def test_of_many_at_once_one_uses_a_nonce(tmp_path: Path) -> None:
    stores = [UsedNonces(f"sqlite:///{tmp_path}/used.db") for _ in range(2)]
    nonces = [bytes([number]) * 40 for number in range(20)]
    won: list[bytes] = []
    start = threading.Barrier(8)

    def work(store: UsedNonces) -> None:
        start.wait()
        won.extend(nonce for nonce in nonces if store.use(nonce, 1000))

    threads = [threading.Thread(target=work, args=(stores[number % 2],)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == nonces
    assert stores[0].check() == 20
    stores[1].forget(1061)
    assert stores[0].check() == 0
    for store in stores:
        store.close()


@pytest.mark.parametrize("entry", ["x", "=f", "a b=f", "default=f", "n="])
def test_policies_that_are_none(tmp_path: Path, entry: str) -> None:
    path = tmp_path / "verifier.toml"
    path.write_text(f'policies = ["{entry}"]\n')
    with pytest.raises(UsageError, match="policies"):
        Settings.load(path)


def test_init_makes_nothing_of_what_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone\.toml"):
        initialise(tmp_path / "v", Settings(policy=str(tmp_path / "gone.toml")))
    assert not (tmp_path / "v").exists()
    initialise(tmp_path / "v", Settings())
    with pytest.raises(StateError):
        initialise(tmp_path / "v", Settings())


def test_beyond_this_machine_there_is_tls_alone() -> None:
    with pytest.raises(UsageError, match="plain HTTP"):
        Settings(host="0.0.0.0")  # noqa: S104
    Settings(host="0.0.0.0", tls_certificate="c", tls_key="k")  # noqa: S104


def test_our_own_check_of_a_token(client: Client, platform: SoftwarePlatform, td: TrustDomain) -> None:
    nonce = client.nonce()
    token = client.post("/v1/attest", evidence(platform, td, nonce)).json()["token"]
    keys = client.call("GET", "/.well-known/jwks.json").json()["keys"]
    now = int(client.service.attestation.now())
    assert ear.verify(token, keys, now=now, nonce=nonce)["eat_nonce"] == nonce
    head, payload, signature = token.split(".")
    for wrong in (
        "",
        "a.b",
        f"{head}.{payload}.",
        f"{head}.{payload[:-2]}AA.{signature}",
        f"{payload}.{payload}.{signature}",
    ):
        with pytest.raises(EvidenceRejected, match="token"):
            ear.verify(wrong, keys, now=now)
    with pytest.raises(EvidenceRejected, match="not valid now"):
        ear.verify(token, keys, now=now + 301)
    with pytest.raises(EvidenceRejected, match="another nonce"):
        ear.verify(token, keys, now=now, nonce="x")
    with pytest.raises(EvidenceRejected):
        ear.verify(token, [], now=now)

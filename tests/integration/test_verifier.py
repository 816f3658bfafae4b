"""Real verifiers (``tdxctl verifier serve``): a real TD attests to one; replicas on one database; schemathesis."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from integration.conftest import Tdxctl
from integration.postgres import Postgres, postgres, wait_until

__all__ = ["postgres"]
pytestmark = pytest.mark.integration


@dataclass
class Verifier:
    """One ``tdxctl verifier serve``."""

    process: subprocess.Popen[bytes]
    url: str
    folder: Path

    @property
    def client(self) -> httpx2.Client:
        ca = self.folder / "tls-ca.crt"
        context = ssl.create_default_context(cafile=str(ca) if ca.exists() else None)
        return httpx2.Client(base_url=self.url, verify=context, timeout=30, trust_env=False)


@pytest.fixture
def launch() -> Iterator[Callable[[Path, dict[str, str]], Verifier]]:
    """Starts verifiers and ends them all."""
    with contextlib.ExitStack() as stack:

        def begin(folder: Path, environment: dict[str, str]) -> Verifier:
            log = folder / f"serve-{time.monotonic_ns()}.log"
            command = [sys.executable, "-m", "tdxstack.cli", "verifier", "serve", "--port", "0"]
            with log.open("wb") as stream:
                process = subprocess.Popen(
                    [*command, "-c", str(folder / "verifier.toml")], stdout=stream, stderr=stream, env=environment
                )
            stack.callback(process.wait)
            stack.callback(process.kill)

            def listening() -> bool:
                assert process.poll() is None, log.read_text()
                return " listening on " in log.read_text()

            wait_until(listening, "the verifier")
            return Verifier(process, log.read_text().split(" listening on ")[1].split()[0], folder)

        yield begin


def decoded(verifier: Verifier, token: str) -> dict[str, Any]:
    """A token's claims, by the published keys and joserfc alone."""
    with verifier.client as client:
        keys = KeySet.import_key_set(client.get("/.well-known/jwks.json").json())
    claims: dict[str, Any] = jwt.decode(token, keys, algorithms=["ES384"]).claims
    return claims


def test_a_real_td_attests(tdxctl: Tdxctl, quickstart: Any, launch: Callable[..., Verifier], tmp_path: Path) -> None:
    name = quickstart["td"]["name"]
    pinned = tmp_path / "pinned.toml"
    pinned.write_text(tdxctl.ok("policy", "from-td", name))
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(pinned.read_text().replace(quickstart["rtmr"][1]["quoted"], "ff" * 48))
    words = ("--pccs", "platform:software", "--trust-root", "platform:software", "--name", "10.0.2.2")
    policies = ("--policy", f"td={pinned}", "--policy", f"wrong={wrong}")
    tdxctl.ok("verifier", "init", str(tmp_path / "v"), *words, *policies)
    verifier = launch(tmp_path / "v", tdxctl.environment)
    to = ("--verifier", verifier.url, "--tls-ca", str(verifier.folder / "tls-ca.crt"))

    token_file = tmp_path / "token"
    said = tdxctl.json("attest", name, *to, "--policy", "td", "--token", str(token_file))
    assert said["schema"] == "tdxstack/remote-attestation/v1"
    assert (said["accepted"], said["status"], said["failed"]) == (True, "UpToDate", [])
    assert (said["event_log"], said["ima_list"], said["software"]) == ("replays", None, True)
    claims = decoded(verifier, token_file.read_text().strip())
    assert claims["eat_nonce"] == said["nonce"]
    quoted = claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"]["quote"]
    assert quoted["rtmrs"][:3] == [register["quoted"] for register in quickstart["rtmr"][:3]]
    assert claims["submods"]["cpu0"]["ear.trustworthiness-vector"]["executables"] in (2, 3)

    refused = tdxctl("attest", name, *to, "--policy", "wrong", "--json")
    assert refused.returncode == 3, refused.stderr
    assert "td.rtmr1" in json.loads(refused.stdout)["failed"]
    assert tdxctl("attest", name, *to, "--policy", "nobodys").returncode == 3
    assert tdxctl("attest", name, "--verifier", verifier.url).returncode == 5, "an unknown TLS CA"
    assert tdxctl("attest", name, "--verifier", "http://192.0.2.1").returncode == 2, "plain HTTP to another machine"
    assert tdxctl("attest", name, "--verifier", "http://127.0.0.1:1").returncode == 5, "nobody listens"

    by_guest_verb = tdxctl.json("guest", "attest", "--td", name, *to, "--policy", "td", "--ima")
    assert by_guest_verb["accepted"] is True
    assert by_guest_verb["ima_list"] == "not bound"

    # From inside the guest, by the way that its network has to this machine; nothing of the host takes part.
    tdxctl.ok("td", "copy", name, str(verifier.folder / "tls-ca.crt"), ":/root/ca.crt")
    url = f"https://10.0.2.2:{verifier.url.rpartition(':')[2]}"
    attest = ("td", "ssh", name, "--", "tdxctl", "guest", "attest", "--verifier", url, "--policy", "td", "--json")
    inside = json.loads(tdxctl.ok(*attest, "--tls-ca", "/root/ca.crt"))
    assert (inside["accepted"], inside["status"], inside["event_log"]) == (True, "UpToDate", "replays")
    assert tdxctl(*attest).returncode == 5, "an unknown TLS CA"


def prepare(tdxctl: Tdxctl, folder: Path, *words: str) -> None:
    """A verifier's directory for a platform of the tests' own; replicas get the same token key."""
    tdxctl.ok("verifier", "init", str(folder), "--pccs", "platform:lab", "--trust-root", "platform:lab", *words)


@pytest.fixture
def lab(tmp_path: Path) -> Tdxctl:
    """A home with a software platform and no TDs."""
    command = Tdxctl(tmp_path / "home")
    command.ok("platform", "create", "lab")
    return command


@pytest.fixture
def quoted(lab: Tdxctl, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, str]]:
    """Makes evidence for a nonce."""
    import hashlib

    from tdxstack.platform.software.platform import SoftwarePlatform
    from unit.platform.software.conftest import run_td

    monkeypatch.setenv("TDXSTACK_HOME", str(lab.home))
    platform = SoftwarePlatform.open("lab")
    td = run_td(platform.module())

    def make(nonce: str) -> dict[str, str]:
        data = base64.urlsafe_b64decode(nonce + "=" * (-len(nonce) % 4))
        quote = platform.quoting_enclave().quote(td.mr_report(hashlib.sha512(data).digest()).to_bytes())
        return {"nonce": nonce, "quote": base64.b64encode(quote).decode()}

    return make


def test_replicas_on_postgresql_take_a_nonce_once(
    lab: Tdxctl,
    quoted: Callable[[str], dict[str, str]],
    launch: Callable[..., Verifier],
    postgres: Postgres,
    tmp_path: Path,
) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        prepare(lab, folder, "--database", postgres.url)
    (folders[1] / "token.key").write_bytes((folders[0] / "token.key").read_bytes())
    one, two = (launch(folder, lab.environment) for folder in folders)
    with one.client as first, two.client as second:
        body = quoted(first.post("/v1/challenge").json()["nonce"])
        answer = second.post("/v1/attest", json=body)
        assert answer.status_code == 200, answer.text
        assert decoded(one, answer.json()["token"])["eat_nonce"] == body["nonce"]
        assert [client.post("/v1/attest", json=body).status_code for client in (first, second)] == [409, 409]
        fresh = quoted(second.post("/v1/challenge").json()["nonce"])
        one.process.kill()
        one.process.wait()
        assert second.post("/v1/attest", json=fresh).status_code == 200
        postgres.kill()
        lost = quoted(second.post("/v1/challenge").json()["nonce"])
        assert second.get("/readyz").status_code == 503
        assert second.post("/v1/attest", json=lost).status_code == 503, "what cannot be noted as used is not judged"
        postgres.start()
        assert second.get("/readyz").status_code == 200
        assert second.post("/v1/attest", json=lost).status_code == 200


def test_a_used_nonce_stays_used_after_a_kill(
    lab: Tdxctl, quoted: Callable[[str], dict[str, str]], launch: Callable[..., Verifier], tmp_path: Path
) -> None:
    prepare(lab, tmp_path / "v", "--tls")
    verifier = launch(tmp_path / "v", lab.environment)
    with verifier.client as client:
        bodies = [quoted(client.post("/v1/challenge").json()["nonce"]) for _ in range(3)]
        assert [client.post("/v1/attest", json=body).status_code for body in bodies] == [200] * 3
    verifier.process.kill()
    verifier.process.wait()
    again = launch(tmp_path / "v", lab.environment)
    assert again.url.startswith("https://127.0.0.1:")
    with again.client as client:
        assert [client.post("/v1/attest", json=body).status_code for body in bodies] == [409] * 3
    again.process.send_signal(signal.SIGTERM)
    assert again.process.wait(30) == 0


def test_schemathesis_finds_nothing(lab: Tdxctl, launch: Callable[..., Verifier], tmp_path: Path) -> None:
    prepare(lab, tmp_path / "v")
    settings = tmp_path / "v" / "verifier.toml"
    settings.write_text(settings.read_text().replace("burst = 100", "burst = 1000000"))
    verifier = launch(tmp_path / "v", lab.environment)
    tool = Path(sys.executable).with_name("schemathesis")
    command = [str(tool), "run", f"{verifier.url}/openapi.json", "--checks", "all"]
    # Evidence of the right shape is hardly ever evidence, so that it is refused says nothing.
    command += ["--exclude-checks", "positive_data_acceptance", "--max-examples", "20"]
    command += ["--continue-on-failure", "--no-color", "--seed", "1"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=500, check=False, cwd=tmp_path, env={**os.environ}
    )
    assert done.returncode == 0, done.stdout[-6000:]
    with verifier.client as client:
        assert client.get("/readyz").status_code == 200
        assert 'status="5' not in client.get("/metrics").text

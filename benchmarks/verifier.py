"""Attestations a second of ``tdxctl verifier serve`` over loopback, beside what the library alone does on one core.

Run ``python -m benchmarks.verifier [--count N] [--json]``; needs wrk (``apt-get install wrk``). Every request has a
challenge and a quote of its own, signed for it beforehand by a software platform; challenges are used once, in
SQLite. The server is one process. ``library`` does what the server does for a request, without HTTP, JSON and the
store: verify, appraise, claims, token (ES384). Times are of processor time, so that other work on the machine does
not count: that of the server's process for the service, that of this one for the library.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

LUA = Path(__file__).with_name("verifier.lua")
CONNECTIONS = 16
REQUIRED = 0.5


@dataclass(frozen=True)
class Serving:
    """A server, and what evidence for it is made with."""

    url: str
    process: int
    platform: Any

    def cpu_seconds(self) -> float:
        """Processor time of the server's process and its threads."""
        fields = Path(f"/proc/{self.process}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serving() -> Iterator[Serving]:
    """One ``tdxctl verifier serve`` for a software platform."""
    from tdxstack.platform.software.platform import SoftwarePlatform
    from tdxstack.services.verifier.settings import Settings, initialise

    with tempfile.TemporaryDirectory(prefix="tdxstack-bench-") as home:
        os.environ["TDXSTACK_HOME"] = home
        os.environ["XDG_CACHE_HOME"] = f"{home}/cache"
        platform = SoftwarePlatform.create("bench")
        settings = Settings(
            pccs="platform:bench", trust_roots=["platform:bench"], nonce_seconds=3600, burst=10**9, port=0
        )
        made = initialise(Path(home) / "verifier", settings)
        command = [sys.executable, "-m", "tdxstack.cli", "verifier", "serve", "-c", str(made["settings"])]
        log = Path(home) / "log"
        with log.open("wb") as stream:
            process = subprocess.Popen(command, stderr=stream)
        try:
            while " listening on " not in log.read_text():
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
            yield Serving(log.read_text().split(" listening on ")[1].split()[0], process.pid, platform)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def quotes(serving: Serving, count: int) -> list[tuple[str, bytes]]:
    """Challenges and the quotes for them."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from unit.platform.software.conftest import run_td

    td, enclave = run_td(serving.platform.module()), serving.platform.quoting_enclave()
    found = []
    with httpx2.Client(base_url=serving.url, trust_env=False) as client:
        for _ in range(count):
            nonce = client.post("/v1/challenge").json()["nonce"]
            data = base64.urlsafe_b64decode(nonce + "=" * (-len(nonce) % 4))
            found.append((nonce, enclave.quote(td.mr_report(hashlib.sha512(data).digest()).to_bytes())))
    return found


def library(serving: Serving, made: list[tuple[str, bytes]]) -> dict[str, float]:
    """Quotes a second of processor time, of verification alone and of all that ends in a token."""
    from cryptography.hazmat.primitives.asymmetric import ec

    from tdxstack.dcap import Collateral, Verifier, ear
    from tdxstack.dcap.appraisal import appraise
    from tdxstack.dcap.policy import Policy

    collateral = Collateral.from_json(json.dumps(serving.platform.collateral()))
    verifier = Verifier(collateral, [serving.platform.trust_root()])
    key, policy, now = ec.generate_private_key(ec.SECP384R1()), Policy(), int(time.time())
    kid = ear.public_jwk(key.public_key())["kid"]
    verifier.verify(made[0][1], now=now)
    start = time.process_time()
    verifications = [verifier.verify(quote, now=now) for _, quote in made]
    middle = time.process_time()
    for verification, (nonce, _) in zip(verifications, made, strict=True):
        data = base64.urlsafe_b64decode(nonce + "=" * (-len(nonce) % 4))
        appraisal = appraise(verification, policy, report_data=hashlib.sha512(data).digest())
        ear.sign(ear.claims(appraisal, issued_at=now, nonce=nonce), key, kid=kid)
    end = time.process_time()
    return {"verify": len(made) / (middle - start), "token": len(made) / (end - start)}


def service(serving: Serving, made: list[tuple[str, bytes]], folder: Path) -> float:
    """Attestations a second of the server's processor time."""
    bodies = folder / "bodies"
    lines = [json.dumps({"nonce": nonce, "quote": base64.b64encode(quote).decode()}) for nonce, quote in made]
    bodies.write_text("\n".join(["{}", *lines]) + "\n")
    before, used = attested(serving), serving.cpu_seconds()
    command = ["wrk", "-t", "1", "-c", str(CONNECTIONS), "-s", str(LUA), "-d", "120s", serving.url]
    subprocess.run(command, env={**os.environ, "BODIES": str(bodies)}, stdout=subprocess.DEVNULL, check=True)
    spent = serving.cpu_seconds() - used
    assert attested(serving) - before == len(made), attested(serving) - before
    return len(made) / spent


def attested(serving: Serving) -> int:
    """How many attestations the server has judged; all of them must have been accepted or rejected, none refused."""
    text = httpx2.get(f"{serving.url}/metrics", trust_env=False).text
    rows = [line for line in text.splitlines() if line.startswith("verifier_attestations_total{")]
    assert not [line for line in text.splitlines() if '/v1/attest",status="4' in line], text
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in rows)


def main() -> int:
    """Measure, print, and say whether it is what is asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=4000, help="attestations")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with serving() as found, tempfile.TemporaryDirectory() as folder:
        made = quotes(found, args.count)
        rates = library(found, made)
        rates["service"] = service(found, made, Path(folder))
    ratio = rates["service"] / rates["token"]
    if args.json:
        print(json.dumps({**rates, "ratio": ratio}))
    for name, rate in rates.items():
        print(f"{name:<8} {rate:>8.0f}/s of one core", file=sys.stderr)
    word = "holds" if ratio >= REQUIRED else "DOES NOT HOLD"
    print(f"service / token: {ratio:.2f}, asked {REQUIRED}: {word}", file=sys.stderr)
    return 0 if ratio >= REQUIRED else 1


if __name__ == "__main__":
    sys.exit(main())

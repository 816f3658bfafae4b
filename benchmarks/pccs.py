"""Requests a second of ``tdxctl pccs serve``, by wrk (``apt-get install wrk``), one server process, over TLS and not.

Run ``python -m benchmarks.pccs [--seconds N] [--rounds N] [--json]``. With ``TDXSTACK_INTEL_PCCS=DIRECTORY`` (see
``benchmarks/intel_pccs.py``) Intel's PCCS is measured beside it: filled with the same collateral, the same TLS
certificate, one process each, in alternating rounds of which medians are taken. With ``--url URL`` another server.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from benchmarks import intel_pccs

ROUTES = {
    "tcb": "/tdx/certification/v4/tcb?fmspc={fmspc}",
    "qe identity": "/tdx/certification/v4/qe/identity",
    "pckcrl": "/sgx/certification/v4/pckcrl?ca=platform&encoding=der",
    "rootcacrl": "/sgx/certification/v4/rootcacrl",
    "pckcert": "/sgx/certification/v4/pckcert"
    "?qeid={qeid}&cpusvn={cpusvn}&pcesvn={pcesvn}&pceid=0000&encrypted_ppid={ppid}",
}
CONNECTIONS, THREADS = 16, 1


def measure(url: str, seconds: int) -> dict[str, float]:
    """Requests a second and the 99th percentile in milliseconds."""
    command = ["wrk", "-t", str(THREADS), "-c", str(CONNECTIONS), "-d", f"{seconds}s", "--latency", url]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rate = re.search(r"Requests/sec:\s+([0-9.]+)", text)
    slow = re.search(r"99%\s+([0-9.]+)(us|ms|s)", text)
    assert rate and slow, text
    assert "Non-2xx" not in text, text
    unit = {"us": 0.001, "ms": 1.0, "s": 1000.0}[slow[2]]
    return {"requests_per_second": float(rate[1]), "p99_ms": float(slow[1]) * unit}


@contextmanager
def serving(tls: bool) -> Iterator[tuple[str, dict[str, str], Path]]:
    """A server with a software platform as upstream; its URL, what fills the routes' parameters, its directory."""
    from tdxstack.platform.software.platform import SoftwarePlatform
    from tdxstack.services.pccs.settings import Settings
    from tdxstack.services.pccs.setup import Plan, initialise

    with tempfile.TemporaryDirectory(prefix="tdxstack-bench-") as home:
        os.environ["TDXSTACK_HOME"] = home
        platform = SoftwarePlatform.create("bench")
        folder = Path(home) / "pccs"
        initialise(folder, Plan(upstream="platform:bench"))
        settings = Settings.load(folder / "pccs.toml")
        changed: dict[str, Any] = {} if tls else {"tls_certificate": "", "tls_key": ""}
        (folder / "pccs.toml").write_text(dataclasses.replace(settings, **changed).to_toml())
        command = [
            sys.executable,
            "-m",
            "tdxstack.cli",
            "pccs",
            "serve",
            "-c",
            str(folder / "pccs.toml"),
            "--port",
            "0",
        ]
        log = folder / "log"
        with log.open("wb") as stream:
            process = subprocess.Popen(command, stderr=stream)
        try:
            while " listening on " not in log.read_text():
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
            url = log.read_text().split(" listening on ")[1].split()[0]
            tcb = platform.tcb()
            known = platform.describe()
            yield (
                url,
                {
                    "fmspc": known["fmspc"],
                    "qeid": "00" * 16,
                    "cpusvn": tcb.cpusvn.hex(),
                    "pcesvn": tcb.pcesvn.to_bytes(2, "little").hex(),
                    "ppid": "AB" * 384,
                },
                folder,
            )
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


@contextmanager
def beside(directory: Path, known: dict[str, str], folder: Path, **settings: Any) -> Iterator[str]:
    """Intel's PCCS, filled with what the server in ``folder`` has; its URL."""
    from tdxstack.platform.software.platform import SoftwarePlatform

    platform = SoftwarePlatform.open("bench")
    registration = {
        "qe_id": known["qeid"],
        "pce_id": "0000",
        "cpu_svn": known["cpusvn"],
        "pce_svn": known["pcesvn"],
        "enc_ppid": known["ppid"],
        "platform_manifest": "",
        "fmspc": known["fmspc"],
    }
    body = intel_pccs.collateral(platform.collateral(), platform.pck_chain(), registration)
    tokens = {name: (folder / f"{name}-token").read_text().strip() for name in ("user", "admin")}
    tls = intel_pccs.Files(folder / "tls.crt", folder / "tls.key")
    context = ssl.create_default_context(cafile=str(folder / "tls-ca.crt"))
    with (
        tempfile.TemporaryDirectory(prefix="tdxstack-bench-intel-") as home,
        intel_pccs.serving(directory, Path(home) / "run", tls, tokens, **settings) as url,
        httpx2.Client(base_url=url, verify=context, trust_env=False) as client,
    ):
        headers = {"admin-token": tokens["admin"], "content-type": "application/json"}
        client.put("/sgx/certification/v4/platformcollateral", content=body, headers=headers).raise_for_status()
        yield url


def compare(urls: dict[str, str], known: dict[str, str], seconds: int, rounds: int) -> list[dict[str, Any]]:
    """Each route of each server in alternating rounds; medians."""
    rows = []
    for name, route in ROUTES.items():
        found: dict[str, list[float]] = {server: [] for server in urls}
        for _ in range(rounds):
            for server, url in urls.items():
                found[server].append(measure(url + route.format(**known), seconds)["requests_per_second"])
        rates = {server: statistics.median(values) for server, values in found.items()}
        ours = rates["tdxstack"]
        row = {"route": name, "tls": True, **{f"{server}_per_second": rate for server, rate in rates.items()}}
        for server, rate in rates.items():
            print(f"{name:<12} TLS  {server:<18} {rate:>9.0f} requests/s   {ours / rate:5.1f}", file=sys.stderr)
        rows.append(row)
    return rows


def run_beside(directory: Path, seconds: int, rounds: int) -> list[dict[str, Any]]:
    """Beside Intel's PCCS, as it is configured, and with its log of requests off (ours has it off)."""
    print(intel_pccs.version(directory), file=sys.stderr)
    with (
        serving(True) as (url, known, folder),
        beside(directory, known, folder) as logging,
        beside(directory, known, folder, LogLevel="error") as quiet,
    ):
        urls = {"tdxstack": url, "intel": logging, "intel_without_log": quiet}
        return compare(urls, known, seconds, rounds)


def run(seconds: int) -> list[dict[str, Any]]:
    """All routes, plain and over TLS."""
    rows = []
    for tls in (False, True):
        with serving(tls) as (url, known, _):
            for name, route in ROUTES.items():
                row = {"route": name, "tls": tls, **measure(url + route.format(**known), seconds)}
                print(
                    f"{name:<12} {'TLS ' if tls else 'HTTP'} {row['requests_per_second']:>9.0f} requests/s   "
                    f"99% within {row['p99_ms']:.1f} ms",
                    file=sys.stderr,
                )
                rows.append(row)
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5, help="rounds beside Intel's PCCS")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--url", help="measure this URL (path and query included) and nothing else")
    args = parser.parse_args()
    if args.url:
        rows = [{"url": args.url, **measure(args.url, args.seconds)}]
    else:
        directory = intel_pccs.program()
        rows = run(args.seconds)
        rows += run_beside(directory, args.seconds, args.rounds) if directory else []
    if args.json or args.url:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()

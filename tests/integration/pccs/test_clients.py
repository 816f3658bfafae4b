"""Clients that know nothing of us: dcap-qvl and schemathesis, over TLS."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import dcap_qvl  # type: ignore[import-untyped]
import pytest

from tdxstack.cli.main import main
from tdxstack.errors import ExitCode
from tdxstack.platform.software.platform import SoftwarePlatform

from .conftest import Server

pytestmark = pytest.mark.integration

GET_COLLATERAL = """
import asyncio, os, sys, dcap_qvl
async def get():
    return await dcap_qvl.get_collateral(sys.argv[1], open(sys.argv[2], "rb").read())
sys.stdout.write(asyncio.run(get()).to_json())
sys.stdout.flush()
os._exit(0)  # dcap-qvl 0.7.0's threads and the end of the interpreter do not agree
"""


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SoftwarePlatform:
    monkeypatch.setenv("TDXSTACK_HOME", str(tmp_path / "home"))
    return SoftwarePlatform.create("demo")


@pytest.fixture
def server(platform: SoftwarePlatform, configure: Callable[..., Path], launch: Callable[[Path], Server]) -> Server:
    return launch(configure(upstream=f"platform:{platform.name}"))


@pytest.fixture
def quote(platform: SoftwarePlatform, tmp_path: Path) -> Path:
    from unit.platform.software.conftest import run_td

    td = run_td(platform.module())
    path = tmp_path / "quote.bin"
    path.write_bytes(platform.quoting_enclave().quote(td.mr_report(bytes(64)).to_bytes()))
    return path


def get_collateral(url: str, quote: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", GET_COLLATERAL, url, str(quote)]
    clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return subprocess.run(command, env=clean | environment, capture_output=True, text=True, timeout=120, check=False)


def test_dcap_qvl_gets_our_collateral_and_verifies_with_it(
    server: Server, platform: SoftwarePlatform, quote: Path
) -> None:
    got = get_collateral(server.url, quote, SSL_CERT_FILE=str(server.folder / "tls-ca.crt"))
    assert got.returncode == 0, got.stderr
    collateral = json.loads(got.stdout)
    published = platform.collateral()
    for name in ("tcb_info", "tcb_info_signature", "qe_identity", "qe_identity_signature", "pck_crl", "root_ca_crl"):
        assert collateral[name] == published[name], name
    parsed = dcap_qvl.QuoteCollateralV3.from_json(got.stdout)
    report = dcap_qvl.verify_with_root_ca(quote.read_bytes(), parsed, platform.trust_root(), int(time.time()))
    assert report.status == "UpToDate"


def test_dcap_qvl_does_not_trust_an_unknown_tls_ca(server: Server, quote: Path) -> None:
    got = get_collateral(server.url, quote)
    assert got.returncode != 0
    assert "certificate" in got.stderr.lower() or "request" in got.stderr.lower(), got.stderr


def test_our_client_fetches_what_verifies(server: Server, platform: SoftwarePlatform, quote: Path) -> None:
    out = quote.with_name("collateral.json")
    ca = str(server.folder / "tls-ca.crt")
    fetch = ["collateral", "fetch", "--quote", str(quote), "--pccs", server.url, "-o", str(out)]
    assert main(fetch) == ExitCode.COLLATERAL, "an unknown TLS CA"
    assert main([*fetch, "--tls-ca", ca]) == ExitCode.DONE
    root = quote.with_name("root.der")
    root.write_bytes(platform.trust_root())
    assert json.loads(out.read_text()) == {
        name: value for name, value in platform.collateral().items() if name != "pck_certificate_chain"
    }
    verify = ["quote", "verify", str(quote), "--collateral", str(out), "--trust-root", str(root), "--json"]
    assert main(verify) in (ExitCode.DONE, ExitCode.REJECTED)


def test_a_pccs_before_a_pccs(
    server: Server,
    platform: SoftwarePlatform,
    configure: Callable[..., Path],
    launch: Callable[[Path], Server],
    tmp_path: Path,
) -> None:
    root = tmp_path / "root.der"
    root.write_bytes(platform.trust_root())
    folder = configure("second", upstream=server.url, trust_roots=(str(root),))
    settings = (folder / "pccs.toml").read_text()
    ca = server.folder / "tls-ca.crt"
    (folder / "pccs.toml").write_text(settings.replace('upstream_ca_file = ""', f'upstream_ca_file = "{ca}"'))
    second = launch(folder)
    for path in ("/tdx/certification/v4/qe/identity", "/sgx/certification/v4/rootcacrl"):
        assert second.client.get(path).content == server.client.get(path).content
    assert second.client.get("/tdx/certification/v4/tcb", params={"fmspc": "0" * 12}).status_code == 404


def test_schemathesis_finds_nothing(server: Server) -> None:
    tool = Path(sys.executable).with_name("schemathesis")
    headers = [f"{name}:{value}" for kind in ("user", "admin") for name, value in server.token(kind).items()]
    command = [str(tool), "run", f"{server.url}/openapi.json", "--tls-verify", str(server.folder / "tls-ca.crt")]
    command += [word for header in headers for word in ("-H", header)]
    # A body of the right shape is rarely signed collateral, so that it is refused says nothing; both tokens are sent
    # everywhere, so that what is asked for where is for the unit tests.
    unfit = "positive_data_acceptance,ignored_auth,missing_required_header"
    command += ["--checks", "all", "--exclude-checks", unfit]
    command += ["--max-examples", "8", "--continue-on-failure", "--no-color", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, cwd=server.folder)
    assert done.returncode == 0, done.stdout[-6000:]
    assert server.client.get("/readyz").status_code == 200


def test_the_command_ends_well_on_sigterm(server: Server) -> None:
    assert server.client.get("/healthz").text == "ok\n"
    assert server.stop() == ExitCode.DONE

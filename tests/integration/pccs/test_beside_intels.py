"""Answers beside those of Intel's own PCCS, filled with the same: ``TDXSTACK_INTEL_PCCS`` names where that is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from benchmarks import intel_pccs

from tdxstack.platform.software.platform import SoftwarePlatform

from .beside import TDX, V3, V4, Both, beside, differences
from .conftest import Server

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(intel_pccs.program() is None, reason=f"no {intel_pccs.DIRECTORY}: Intel's PCCS is not here"),
]

QE_ID, PPID = "AB" * 16, "CD" * 384
CRL_URI = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"


@pytest.fixture
def both(
    configure: Callable[..., Path],
    launch: Callable[[Path], Server],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Both]:
    monkeypatch.setenv("TDXSTACK_HOME", str(tmp_path / "home"))
    platform = SoftwarePlatform.open_or_create("demo")
    root = tmp_path / "root.der"
    root.write_bytes(platform.trust_root())
    ours = launch(configure(mode="OFFLINE", trust_roots=(str(root),)))
    tcb = platform.tcb()
    fields = {
        "qe_id": QE_ID,
        "pce_id": "0000",
        "cpu_svn": tcb.cpusvn.hex(),
        "pce_svn": tcb.pcesvn.to_bytes(2, "little").hex(),
        "enc_ppid": PPID,
        "platform_manifest": "",
        "fmspc": platform.describe()["fmspc"].upper(),
    }
    with beside(ours, tmp_path / "intel", fields) as found:
        yield found


def reads(platform: dict[str, str]) -> list[tuple[str, dict[str, str]]]:
    """Paths and queries of the reading routes, and of what they refuse."""
    fmspc = platform["fmspc"]
    pck = {"qeid": QE_ID, "cpusvn": platform["cpu_svn"], "pcesvn": platform["pce_svn"], "pceid": "0000"}
    lower = fmspc.lower()
    sets = [{}, {"update": "standard"}, {"update": "EARLY"}, {"update": "x"}, {"update": ""}]
    tcbs = [{"fmspc": fmspc, **one} for one in sets] + [{"fmspc": one} for one in (lower, "0" * 12, "zz", "")] + [{}]
    crls = [{"ca": ca} for ca in ("platform", "PLATFORM", "processor", "x")] + [{}]
    crls += [{"ca": "platform", "encoding": one} for one in ("der", "DER", "pem", "x", "")]
    pcks = [pck, {**pck, "encrypted_ppid": PPID}, {**pck, "qeid": QE_ID.lower()}, {**pck, "qeid": "EF" * 16}, {}]
    pcks += [{**pck, name: "x" * 261} for name in pck] + [{**pck, "encrypted_ppid": "AB"}, {**pck, "pceid": "0001"}]
    pcks += [{**pck, "cpusvn": "FF" * 16, "pcesvn": "ffff"}, {**pck, "cpusvn": "00" * 16, "pcesvn": "0000"}]
    uris = [{"uri": "https://example.com/x"}, {"uri": CRL_URI.replace("https", "http")}, {"uri": CRL_URI}, {}]
    found = [(f"{TDX}/tcb", query) for query in tcbs] + [(f"{TDX}/qe/identity", query) for query in sets]
    found += [(f"{V4}/pckcrl", query) for query in crls] + [(f"{V4}/pckcert", query) for query in pcks]
    found += [(f"{V4}/crl", query) for query in uris] + [(f"{V4}/qve/identity", {}), (f"{V4}/rootcacrl", {})]
    found += [(f"{V3}/tcb", {"fmspc": fmspc}), (f"{V3}/qe/identity", {}), (f"{V3}/pckcrl", {"ca": "platform"})]
    return [*found, (f"{TDX}/tcb/", {"fmspc": fmspc}), (f"{V4}/RootCACRL", {})]


def writes(tokens: dict[str, dict[str, str]]) -> list[tuple[str, str, dict[str, Any]]]:
    """What users and administrators send."""
    user, admin = tokens["user"], tokens["admin"]
    body = {"qe_id": "CC", "pce_id": "0000", "cpu_svn": "00" * 16, "pce_svn": "0000", "enc_ppid": PPID}
    bad = [{**body, name: "x"} for name in ("pce_id", "cpu_svn", "pce_svn", "enc_ppid")] + [{}, {**body, "qe_id": ""}]
    found: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/platforms", {"json": body, "headers": headers})
        for headers in ({}, admin, {"user-token": "wrong"}, user)
    ]
    found += [("POST", "/platforms", {"json": one, "headers": user}) for one in bad]
    found += [("GET", "/platforms", {"params": {"source": one}, "headers": admin}) for one in ("reg_na", "x", "[x]")]
    found += [("GET", "/platforms", {"headers": headers}) for headers in ({}, user)]
    found += [(method, "/refresh", {"headers": admin}) for method in ("GET", "POST")]
    found += [
        ("GET", "/refresh", {"headers": admin, "params": {"type": "x"}}),
        ("GET", "/refresh", {"headers": user}),
    ]
    found += [
        ("PUT", f"/{name}", {"json": {}, "headers": admin}) for name in ("platformcollateral", "appraisalpolicy")
    ]
    found += [("PUT", f"/{name}", {"json": {}}) for name in ("platformcollateral", "appraisalpolicy")]
    large = {"content": b"x" * (3 << 20), "headers": {**admin, "content-type": "application/json"}}
    return [*found, ("PUT", "/platformcollateral", large)]


def test_answers_are_intels(both: Both) -> None:
    held = SoftwarePlatform.open("demo")
    body = intel_pccs.collateral(held.collateral(), held.pck_chain(), both.platform, for_intels=False)
    intels = intel_pccs.collateral(held.collateral(), held.pck_chain(), both.platform)
    headers = {**both.tokens["admin"], "content-type": "application/json"}
    for client, content in zip(both.clients, (body, intels), strict=True):
        answer = client.put(f"{V4}/platformcollateral", content=content, headers=headers)
        assert (answer.status_code, answer.text) == (200, "Operation successful.")
    asked = [("GET", path, {"params": query}) for path, query in reads(both.platform)]
    asked += [("HEAD", f"{V4}/rootcacrl", {})]
    asked += [(method, f"{V4}{path}", words) for method, path, words in writes(both.tokens)]
    found = {
        f"{method} {path} {str(words)[:200]}": lines
        for method, path, words in asked
        if (lines := differences(*both.ask(method, path, **words)))
    }
    assert not found

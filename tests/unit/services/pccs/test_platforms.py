"""Registration, PCK certificates and their selection, and what administrators bring."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fake_intel import FMSPC, LEVELS, PCE_ID, PPID, QE_ID, FakeIntel, certificate, pki, tcbm
from tdxstack.pcs.source import EARLY, Ca, Enclave, Tee
from tdxstack.services.pccs.schema import State

from .conftest import ADMIN, USER, Api

Start = Callable[..., Api]
V4 = "/sgx/certification/v4"


def registration(**changes: str) -> dict[str, str]:
    best = tcbm(*LEVELS[0])
    fields = {"qe_id": QE_ID, "pce_id": PCE_ID, "cpu_svn": best[:32], "pce_svn": best[32:], "enc_ppid": PPID}
    return fields | changes


def pckcert(api: Api, level: tuple[bytes, int], **query: str) -> Any:
    text = tcbm(*level)
    parameters = {"qeid": QE_ID, "pceid": PCE_ID, "cpusvn": text[:32], "pcesvn": text[32:]} | query
    return api.get(f"{V4}/pckcert", **parameters)


@pytest.mark.parametrize("level", LEVELS)
def test_lazy_fetches_the_certificate_of_a_platform_it_does_not_know(api: Api, level: tuple[bytes, int]) -> None:
    answer = pckcert(api, level, encrypted_ppid=PPID.lower())
    assert answer.status_code == 200
    assert answer.text == certificate(*level).pem
    assert answer.headers["SGX-TCBm"] == tcbm(*level)
    assert answer.headers["SGX-FMSPC"] == FMSPC
    assert answer.headers["SGX-PCK-Certificate-CA-Type"] == "PLATFORM"
    assert unquote(answer.headers["SGX-PCK-Certificate-Issuer-Chain"]) == pki().pck_crl_chain
    asked = len(api.intel.asked)
    assert pckcert(api, level).text == answer.text
    assert len(api.intel.asked) == asked


@pytest.mark.parametrize(
    ("components", "pce_svn", "expected"),
    [
        (bytes([9] * 16), 14, 0),
        (bytes([8] * 16), 13, 0),
        (bytes([8] * 16), 12, 1),
        (bytes([8] * 15 + [7]), 13, 1),
        (bytes([4] + [9] * 15), 13, 2),
        (bytes([2] * 16), 5, 2),
        (bytes([2] * 16), 4, None),
        (bytes([1] + [9] * 15), 13, None),
    ],
)
def test_the_best_certificate_not_above_the_platform(
    api: Api, components: bytes, pce_svn: int, expected: int | None
) -> None:
    pckcert(api, LEVELS[0], encrypted_ppid=PPID)
    answer = pckcert(api, (components, pce_svn))
    if expected is None:
        assert answer.status_code == 404
    else:
        assert (answer.status_code, answer.headers["SGX-TCBm"]) == (200, tcbm(*LEVELS[expected]))


@given(st.permutations(range(3)), st.lists(st.integers(0, 10), min_size=17, max_size=17))
def test_selection_is_the_same_whatever_the_order(order: list[int], svns: list[int]) -> None:
    from tdxstack.pcs.source import STANDARD
    from tdxstack.services.pccs.admission import parse_tcb_info
    from tdxstack.services.pccs.records import RawTcb
    from tdxstack.services.pccs.selection import select

    info = parse_tcb_info(FakeIntel().tcb_info(Tee.SGX, FMSPC, STANDARD).body)
    text = tcbm(bytes(svns[:16]), svns[16])
    found = select(RawTcb(text[:32], text[32:]), [certificate(*LEVELS[i]) for i in order], info, PCE_ID)
    below = [level for level in LEVELS if min(svns[:16]) >= level[0][0] and svns[16] >= level[1]]
    assert (found.tcbm if found else None) == (tcbm(*below[0]) if below else None)


def test_certificates_that_intel_has_not_yet(api: Api) -> None:
    api.intel.certificates = [certificate(*LEVELS[0])]
    api.intel.unavailable = (tcbm(*LEVELS[1]),)
    assert pckcert(api, LEVELS[1], encrypted_ppid=PPID).status_code == 462
    assert pckcert(api, LEVELS[2], encrypted_ppid=PPID).status_code == 404
    assert pckcert(api, LEVELS[0], encrypted_ppid=PPID).status_code == 200
    api.intel.certificates = []
    assert api.register(registration(qe_id="FF")).status_code == 462


def test_a_platform_without_its_ppid_cannot_be_asked_for(api: Api) -> None:
    assert pckcert(api, LEVELS[0]).status_code == 400
    assert pckcert(api, LEVELS[0], encrypted_ppid="0" * 768).status_code == 404
    assert pckcert(api, LEVELS[0], encrypted_ppid="C" * 768).status_code == 404


def test_a_platform_is_known_though_no_certificate_fits_its_tcb(api: Api) -> None:
    """As at Intel's: what came with it is kept, and it is not asked for again."""
    low = (bytes(16), 0)
    assert pckcert(api, low, encrypted_ppid=PPID).status_code == 404
    asked = len(api.intel.asked)
    assert pckcert(api, low, encrypted_ppid=PPID).status_code == 404
    assert pckcert(api, LEVELS[1]).status_code == 200, "known without its PPID"
    assert len(api.intel.asked) == asked


def test_registering_a_tcb_that_no_certificate_fits(start: Start) -> None:
    api = start("REQ")
    low = registration(cpu_svn="00" * 16, pce_svn="0000")
    assert api.register(low).status_code == 404
    assert pckcert(api, LEVELS[1]).status_code == 200
    waiting = api.admin("GET", f"{V4}/platforms").json()
    assert [one["qe_id"] for one in waiting] == [QE_ID]


def test_certificates_of_another_issuer_are_not_kept(api: Api) -> None:
    from fake_intel import extension, moment
    from tdxstack.pcs.source import PckCertificate
    from tdxstack.platform.software.pki import make_pki

    other = make_pki("other", extension(*LEVELS[0]), moment())
    api.intel.certificates = [PckCertificate(tcbm(*LEVELS[0]), other.pck.pem)]
    assert pckcert(api, LEVELS[0], encrypted_ppid=PPID).status_code == 502
    assert api.service.store.counts()["platforms"] == 0


@pytest.mark.parametrize("mode", ["LAZY", "REQ"])
def test_registering_fetches_everything(start: Start, mode: str) -> None:
    api = start(mode)
    assert api.register(registration(), update="all").status_code == 200
    api.intel.down = True
    assert pckcert(api, LEVELS[0]).status_code == 200
    for path in ("/sgx/certification/v4/tcb", "/tdx/certification/v4/tcb"):
        for update in ("early", "standard"):
            assert api.get(path, fmspc=FMSPC, update=update).status_code == 200
    for path in ("/sgx/certification/v4/qe/identity", "/tdx/certification/v4/qe/identity", f"{V4}/rootcacrl"):
        assert api.get(path).status_code == 200
    assert api.get(f"{V4}/pckcrl", ca="platform").status_code == 200
    assert api.register(registration()).status_code == 200, "what is cached needs no upstream"


def test_registering_with_a_manifest(start: Start) -> None:
    api = start("REQ")
    assert api.register({"qe_id": QE_ID, "pce_id": PCE_ID, "platform_manifest": "BEEF"}).status_code == 200
    platform = api.service.store.platform(QE_ID, PCE_ID)
    assert platform is not None
    assert (platform.platform_manifest, platform.enc_ppid) == ("BEEF", "")
    assert pckcert(api, LEVELS[1]).headers["SGX-TCBm"] == tcbm(*LEVELS[1])


def test_a_registration_that_upstream_does_not_answer_stays_in_the_queue(start: Start) -> None:
    api = start("REQ")
    api.intel.down = True
    assert api.register(registration()).status_code == 502
    assert [one.qe_id for one in api.service.store.registrations(State.NEW)] == [QE_ID]
    api.intel.down = False
    assert api.register(registration()).status_code == 200
    assert api.service.store.registrations(State.NEW) == []


def test_req_notes_certificates_that_are_not_there_yet(start: Start) -> None:
    api = start("REQ")
    api.intel.unavailable = (tcbm(bytes([9] * 16), 15),)
    assert api.register(registration()).status_code == 200
    waiting = api.admin("GET", f"{V4}/platforms", params={"source": "reg_na"})
    assert [(row["cpu_svn"], row["pce_svn"]) for row in waiting.json()] == [("09" * 16, "0F00")]
    assert api.admin("GET", f"{V4}/platforms", params={"source": "reg_na"}).json() == []


def test_offline_queues_and_hands_out_once(start: Start) -> None:
    api = start("OFFLINE")
    assert api.register(registration()).status_code == 200
    assert api.register(registration()).status_code == 200
    listed = api.admin("GET", f"{V4}/platforms")
    assert listed.headers["platform-count"] == "1"
    assert listed.json() == [registration(platform_manifest="")]
    assert api.admin("GET", f"{V4}/platforms").json() == []
    assert api.admin("POST", f"{V4}/refresh").status_code == 503


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff\xfe",
        b'{"qe_id": "A", "qe_id": "B", "pce_id": "0000"}',
        b'{"a": ' * 5000 + b"1" + b"}" * 5000,
        b'{"a": ' * 40 + b"1" + b"}" * 40,
        b'{"a": NaN}',
        b'{"a": ' + b"9" * 5000 + b"}",
        json.dumps(registration(qe_id="")).encode(),
        json.dumps(registration(qe_id="A" * 261)).encode(),
        json.dumps(registration(qe_id="A\0")).encode(),
        json.dumps(registration(qe_id="\ud800")).encode(),
        json.dumps(registration(pce_id="000")).encode(),
        json.dumps(registration(cpu_svn="")).encode(),
        json.dumps(registration(enc_ppid="00")).encode(),
        json.dumps({"qe_id": 1, "pce_id": "0000"}).encode(),
        json.dumps({"qe_id": "A", "pce_id": "0000"}).encode(),
    ],
)
def test_registrations_that_are_none(api: Api, body: bytes) -> None:
    answer = api.call("POST", f"{V4}/platforms", content=body, headers={"user-token": USER})
    assert answer.status_code == 400
    assert api.service.store.counts()["registrations"] == 0


def test_a_body_that_is_too_long(start: Start) -> None:
    api = start(max_body_bytes=2048)
    for headers in ({"user-token": USER}, {"user-token": USER, "transfer-encoding": "chunked"}):
        answer = api.call("POST", f"{V4}/platforms", content=b"x" * 4096, headers=headers)
        assert answer.status_code == 413


@pytest.mark.parametrize(
    ("method", "path", "right"),
    [
        ("POST", "/platforms", "user-token"),
        ("GET", "/platforms", "admin-token"),
        ("PUT", "/platformcollateral", "admin-token"),
        ("POST", "/refresh", "admin-token"),
        ("GET", "/refresh", "admin-token"),
        ("PUT", "/appraisalpolicy", "admin-token"),
    ],
)
@pytest.mark.parametrize("version", ["v3", "v4"])
def test_tokens_are_asked_for(api: Api, method: str, path: str, right: str, version: str) -> None:
    url = f"/sgx/certification/{version}{path}"
    other = {"user-token": "admin-token", "admin-token": "user-token"}[right]
    secret = {"user-token": USER, "admin-token": ADMIN}
    for headers in (
        {},
        {right: ""},
        {right: "x"},
        {right: secret[other]},
        {other: secret[other]},
        {right: "x" * 5000},
    ):
        assert api.call(method, url, headers=headers, content=b"{}").status_code == 401
    assert api.call(method, url, headers={right: secret[right]}, content=b"{}").status_code in (200, 400)


def test_without_tokens_nobody_gets_in(start: Start) -> None:
    api = start(user_token="", admin_token="")
    assert api.register(registration()).status_code == 401
    assert api.admin("GET", f"{V4}/platforms").status_code == 401


def test_refreshing_brings_what_is_newer(api: Api) -> None:
    first = api.get(f"{V4}/qe/identity").content
    pckcert(api, LEVELS[0], encrypted_ppid=PPID)
    api.intel.issued += 600
    assert api.get(f"{V4}/qe/identity").content == first
    assert api.admin("POST", f"{V4}/refresh").status_code == 200
    assert api.get(f"{V4}/qe/identity").content != first
    assert api.admin("GET", f"{V4}/refresh", params={"type": "certs", "fmspc": FMSPC}).status_code == 200
    assert api.intel.asked.count("pck_certificates") == 2
    assert api.admin("POST", f"{V4}/refresh", params={"type": "certs", "fmspc": "0" * 12}).status_code == 200
    assert api.intel.asked.count("pck_certificates") == 2


def test_a_refresh_that_fails_leaves_what_there_is(api: Api) -> None:
    first = api.get(f"{V4}/qe/identity").content
    api.intel.down = True
    answer = api.admin("POST", f"{V4}/refresh")
    assert (answer.status_code, "1 failed: identity QE standard" in answer.text) == (503, True)
    assert api.get(f"{V4}/qe/identity").content == first


def test_a_refresh_keeps_selections_and_chooses_anew(api: Api) -> None:
    api.intel.certificates = [certificate(*LEVELS[1])]
    assert pckcert(api, LEVELS[0], encrypted_ppid=PPID).headers["SGX-TCBm"] == tcbm(*LEVELS[1])
    api.intel.certificates = [certificate(*level) for level in LEVELS]
    api.admin("POST", f"{V4}/refresh", params={"type": "certs"})
    assert pckcert(api, LEVELS[0]).headers["SGX-TCBm"] == tcbm(*LEVELS[0])


def collateral(intel: FakeIntel) -> dict[str, Any]:
    """What Intel's admin tool PUTs: TCB infos as objects, identities as texts."""

    def response(document: Any) -> Any:
        return json.loads(document.body)

    certs = [{"tcb": {}, "tcbm": one.tcbm, "cert": quote(one.pem)} for one in intel.certificates]
    return {
        "platforms": [registration(platform_manifest="")],
        "collaterals": {
            "version": 4,
            "pck_certs": [{"qe_id": QE_ID, "pce_id": PCE_ID, "enc_ppid": PPID, "certs": certs}],
            "tcbinfos": [
                {
                    "fmspc": FMSPC,
                    "sgx_tcbinfo": response(intel.tcb_info(Tee.SGX, FMSPC)),
                    "tdx_tcbinfo": response(intel.tcb_info(Tee.TDX, FMSPC)),
                    "tdx_tcbinfo_early": response(intel.tcb_info(Tee.TDX, FMSPC, EARLY)),
                }
            ],
            "pckcacrl": {"processorCrl": "", "platformCrl": intel.pck_crl(Ca.PLATFORM).der.hex()},
            "qeidentity": intel.identity(Enclave.QE).body.decode(),
            "tdqeidentity": intel.identity(Enclave.TD_QE).body.decode(),
            "qveidentity": intel.identity(Enclave.QVE).body.decode(),
            "certificates": {
                "SGX-PCK-Certificate-Issuer-Chain": {"PROCESSOR": "", "PLATFORM": quote(pki().pck_crl_chain)},
                "SGX-TCB-Info-Issuer-Chain": quote(pki().tcb_signing_chain),
                "SGX-Enclave-Identity-Issuer-Chain": quote(pki().tcb_signing_chain),
            },
            "rootcacrl_cdp": "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der",
            "rootcacrl": intel.root_ca_crl().der.hex(),
        },
    }


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_offline_serves_what_an_administrator_brings(
    start: Start, intel: FakeIntel, separators: tuple[str, str]
) -> None:
    api = start("OFFLINE")
    text = json.dumps(collateral(intel), separators=separators).encode()
    answer = api.admin("PUT", f"{V4}/platformcollateral", content=text)
    assert (answer.status_code, answer.text) == (200, "Operation successful.")
    assert pckcert(api, LEVELS[0]).text == certificate(*LEVELS[0]).pem
    assert pckcert(api, LEVELS[2]).text == certificate(*LEVELS[2]).pem
    for tee in Tee:
        served = api.get(f"/{tee}/certification/v4/tcb", fmspc=FMSPC).content
        assert served == intel.tcb_info(tee, FMSPC).body, "the signed text is served as it was signed"
    assert api.get("/tdx/certification/v4/tcb", fmspc=FMSPC, update="early").status_code == 200
    for path in ("/sgx/certification/v4/qe/identity", "/sgx/certification/v4/qve/identity", f"{V4}/rootcacrl"):
        assert api.get(path).status_code == 200
    cdp = collateral(intel)["collaterals"]["rootcacrl_cdp"]
    assert api.get(f"{V4}/crl", uri=cdp).status_code == 200
    listed = api.admin("GET", f"{V4}/platforms", params={"source": f"[{FMSPC.lower()}]"}).json()
    assert [(row["qe_id"], row["enc_ppid"]) for row in listed] == [(QE_ID, PPID)] * len(listed)


def test_what_is_brought_must_hold(start: Start, intel: FakeIntel) -> None:
    api = start("OFFLINE")
    good = collateral(intel)

    def put(change: Callable[[dict[str, Any]], None]) -> int:
        body = copy.deepcopy(good)
        change(body)
        return api.admin("PUT", f"{V4}/platformcollateral", json=body).status_code

    held = "collaterals"
    other = intel.identity(Enclave.QVE).body.decode()
    cases: list[tuple[int, Callable[[dict[str, Any]], None]]] = [
        (460, lambda b: b[held]["tcbinfos"][0]["sgx_tcbinfo"]["tcbInfo"].update(tcbEvaluationDataNumber=99)),
        (460, lambda b: b[held]["tcbinfos"][0]["sgx_tcbinfo"].update(signature="00" * 64)),
        (460, lambda b: b[held]["tcbinfos"][0]["sgx_tcbinfo"].update(signature="zz")),
        (460, lambda b: b[held].update(qeidentity=other)),
        (460, lambda b: b[held].update(rootcacrl=good[held]["pckcacrl"]["platformCrl"])),
        (460, lambda b: b[held]["pckcacrl"].update(platformCrl="3000")),
        (460, lambda b: b[held]["certificates"].update({"SGX-TCB-Info-Issuer-Chain": "none"})),
        (400, lambda b: b[held]["certificates"].pop("SGX-TCB-Info-Issuer-Chain")),
        (400, lambda b: b[held]["certificates"].pop("SGX-PCK-Certificate-Issuer-Chain")),
        (400, lambda b: b[held].pop("certificates")),
        (400, lambda b: b[held].update(tcbinfos=[])),
        (400, lambda b: b[held]["pck_certs"][0].update(certs=[])),
        (400, lambda b: b[held]["pck_certs"][0]["certs"][0].update(cert="none")),
        (400, lambda b: b[held]["pckcacrl"].update(platformCrl="3")),
        (400, lambda b: b.pop("platforms")),
        (400, lambda b: b["platforms"][0].pop("qe_id")),
    ]
    for number, (status, change) in enumerate(cases):
        assert (number, put(change)) == (number, status)
        assert api.service.store.counts()["documents"] == 0, f"case {number} is kept in part"
    assert put(lambda _: None) == 200


def _jwt(class_id: str) -> str:
    inner = json.dumps({"policy_array": [{"environment": {"class_id": class_id}}]})
    payload = base64.urlsafe_b64encode(json.dumps({"policy_payload": inner}).encode()).rstrip(b"=").decode()
    return f"eyJhbGciOiJub25lIn0.{payload}."


TDX_15 = "f708b97f-0fb2-4e6b-8b03-8a5bcd1221d3"


def test_appraisal_policies(api: Api) -> None:
    policy = {"is_default": True, "fmspc": FMSPC.lower(), "policy": _jwt(TDX_15)}
    answer = api.admin("PUT", f"{V4}/appraisalpolicy", json=policy)
    assert (answer.status_code, len(answer.text)) == (200, 96)
    sgx = policy | {"policy": _jwt("3123ec35-8d38-4ea5-87a5-d6c48b567570")}
    assert api.admin("PUT", f"{V4}/appraisalpolicy", json=sgx).status_code == 200
    assert api.get(f"{V4}/appraisalpolicy", fmspc=FMSPC).text == f"{sgx['policy']},{policy['policy']}"
    assert api.get(f"{V4}/appraisalpolicy", fmspc="0" * 12).status_code == 404


@pytest.mark.parametrize(
    "change",
    [
        {"policy": "a"},
        {"policy": "a.b.c"},
        {"policy": _jwt("00000000-0000-0000-0000-000000000000")},
        {"policy": _jwt("3769258c-75e6-4bc7-8d72-d2b0e224cad2")},
        {"fmspc": "x"},
        {"is_default": 1},
    ],
)
def test_policies_that_are_none(api: Api, change: dict[str, Any]) -> None:
    policy = {"is_default": True, "fmspc": FMSPC, "policy": _jwt(TDX_15)} | change
    assert api.admin("PUT", f"{V4}/appraisalpolicy", json=policy).status_code == 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=15,
)
PATHS = st.lists(st.integers(0, 50), min_size=1, max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(path=PATHS, value=JSON)
def test_any_body_is_taken_or_refused(api: Api, path: list[int], value: Any) -> None:
    """One value somewhere in a good body is replaced by any other."""
    document = collateral(api.intel)
    node: Any = document
    for step in path:
        keys = list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []
        if not keys:
            break
        parent, key = node, keys[step % len(keys)]
        node = parent[key]
    parent[key] = value
    answer = api.admin("PUT", f"{V4}/platformcollateral", json=document)
    assert answer.status_code in (200, 400, 404, 460, 462)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_refused(api: Api, data: bytes) -> None:
    for method, path in (("PUT", "/platformcollateral"), ("PUT", "/appraisalpolicy")):
        assert api.admin(method, V4 + path, content=data).status_code == 400

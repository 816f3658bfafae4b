"""Supplemental data beside what another verifier makes of the same quotes, and of two TCBs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tdxstack.dcap import Collateral, Verifier

dcap_qvl = pytest.importorskip("dcap_qvl")
#: SHA-384 of the public key of Intel's root, as Intel's own library gives it.
INTEL_ROOT_KEY_ID = "46e403bd34f05a3f2817ab9badcaacc7ffc98e0f261008cd30dae936cace18d5dcf58eef31463613de1570d516200993"
FLAGS = {"True": True, "False": False, "Undefined": None}


def of_dcap_qvl(folder: Path, now: int) -> dict[str, Any]:
    """Its claims by our names."""
    collateral = dcap_qvl.QuoteCollateralV3.from_json((folder / "collateral.json").read_text())
    policy = dcap_qvl.QuotePolicy.claims_only(now)
    raw = (folder / "quote.bin").read_bytes()
    claims = json.loads(dcap_qvl.QuoteVerifier().verify_with_policy(raw, collateral, now, policy).to_json())
    platform, qe = claims["platform"], claims["qe"]
    pck = platform["pck"]
    dates = ("earliest_issue_date", "latest_issue_date", "earliest_expiration_date")
    octets = {"root_key_id": platform["root_key_id"]} | {
        name: pck[name] for name in ("ppid", "cpu_svn", "pce_id", "fmspc", "platform_instance_id")
    }
    return {
        **{name: claims[name] for one in dates for name in (one, f"qe_iden_{one}")},
        **{name: bytes(value).hex() if value is not None else None for name, value in octets.items()},
        **{name: FLAGS[pck[name]] for name in ("dynamic_platform", "cached_keys", "smt_enabled")},
        "tcb_level_date": platform["tcb_date_tag"],
        "tcb_evaluation_number": claims["tcb"]["eval_data_number"],
        "root_ca_crl_number": platform["root_ca_crl_num"],
        "pck_crl_number": platform["pck_crl_num"],
        "pce_svn": pck["pce_svn"],
        "sgx_type": pck["sgx_type"],
        "tee_type": claims["tee_type"],
        "sa_list": tuple(claims["tcb"]["advisory_ids"]),
        "qe_iden_tcb_evaluation_number": qe["tcb_eval_data_number"],
        "qe_iden_status": qe["tcb_level"]["tcbStatus"],
    }


@pytest.mark.parametrize("name", ["dcapqvl-tdx-v4", "flashbots-dcap-v4", "zkdcap-v4", "dcapqvl-sgx-v3"])
def test_it_is_what_another_verifier_says(vectors: Path, name: str) -> None:
    folder = vectors / "attestation" / "real" / name
    now = json.loads((folder / "meta.json").read_text())["valid_from"] + 60
    theirs = of_dcap_qvl(folder, now)
    collateral = Collateral.from_json((folder / "collateral.json").read_text())
    data = Verifier(collateral).verify((folder / "quote.bin").read_bytes(), now=now).supplemental
    assert {name: getattr(data, name) for name in theirs} == theirs
    assert data.root_key_id == INTEL_ROOT_KEY_ID


def test_of_the_tcb_at_launch_and_of_that_now(vectors: Path) -> None:
    folder = vectors / "attestation" / "synthetic" / "relaunch_modOOD_to_UTD"
    collateral = Collateral.from_json((folder / "collateral.json").read_text())
    found = Verifier(collateral, (folder / "root.der").read_bytes()).verify(
        (folder / "quote.bin").read_bytes(), now=1781481600
    )
    data = found.supplemental
    assert (found.status, data.tcb_status_current, data.tee_type) == ("TDRelaunchAdvised", "UpToDate", 0x81)
    assert (data.sa_list, data.sa_list_current) == (found.advisories, ())
    assert data.tcb_level_date != data.tcb_date_current
    assert (data.qe_iden_status, data.qe_iden_tcb_evaluation_number) == ("UpToDate", data.tcb_evaluation_number)
    of_identity = [item for item in found.expiries if item.item.startswith("qe_identity")]
    assert data.qe_iden_earliest_expiration_date == min(item.expires for item in of_identity)
    assert data.qe_iden_earliest_issue_date == min(item.issued for item in of_identity)
    assert data.qe_iden_latest_issue_date == max(item.latest_issued for item in of_identity)
    assert len(found.expiries) == 7 + bool(collateral.pck_crl_issuer_chain)

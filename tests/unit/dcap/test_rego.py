"""Rego policies in Trustee's shape, run by the real interpreter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tdxstack.cli.main import main
from tdxstack.dcap import ear
from tdxstack.dcap.appraisal import appraise
from tdxstack.dcap.policy import Policy
from tdxstack.dcap.rego import RegoPolicy, trustee_input
from tdxstack.errors import UsageError
from tdxstack.measure.boot import event_members
from tdxstack.measure.logs import load
from unit.dcap.test_appraisal import verified
from unit.dcap.test_supplemental import INTEL_ROOT_KEY_ID

pytest.importorskip("regopy")

POLICY = """package policy
import rego.v1

default executables := 33
default hardware := 97
default configuration := 36
default file_system := 0

trust_claims := {
    "executables": executables, "hardware": hardware, "configuration": configuration, "file-system": file_system,
}

executables := 3 if {
    input.tdx.quote.body.rtmr_1 in query_reference_value("rtmr_1")
    input.tdx.quote.body.rtmr_2 in query_reference_value("rtmr_2")
} else := 4 if {
    input.tdx.quote.body.rtmr_1 in query_reference_value("rtmr_1")
}

hardware := 2 if {
    input.tdx.quote.header.tee_type == "81000000"
    input.tdx.quote.header.vendor_id == "939a7233f79c4ca9940a0db3957f0607"
    input.tdx.quote.body.mr_td in query_reference_value("mr_td")
    input.tdx.tcb_status == "UpToDate"
    input.tdx.collateral_expiration_status == "0"
}

configuration := 2 if {
    input.tdx.td_attributes.debug == false
    input.tdx.quote.body.xfam in query_reference_value("xfam")
}
"""


def reference(body: Any) -> dict[str, Any]:
    return {
        "mr_td": [body.mr_td.hex()],
        "rtmr_1": [body.rtmrs[1].hex()],
        "rtmr_2": [body.rtmrs[2].hex()],
        "xfam": [body.xfam.to_bytes(8, "little").hex()],
    }


def claims(vectors: Path, name: str, **changes: Any) -> dict[str, int]:
    verification = verified(vectors / "attestation" / "synthetic" / name)
    quote: Any = verification.quote
    values = reference(quote.body) | changes
    return RegoPolicy.from_text(POLICY, json.dumps(values)).evaluate(trustee_input(verification))


def test_claims(vectors: Path) -> None:
    good = {"executables": 3, "hardware": 2, "configuration": 2, "file-system": 0}
    assert claims(vectors, "ok_v5_td15") == good
    assert claims(vectors, "ok_v5_td15", rtmr_2=[]) == good | {"executables": 4}
    assert claims(vectors, "ok_v5_td15", rtmr_1=["00"]) == good | {"executables": 33}
    assert claims(vectors, "plat_OutOfDate") == good | {"hardware": 97}
    assert claims(vectors, "td_debug") == good | {"configuration": 36}
    assert claims(vectors, "tcbinfo_expired") == good | {"hardware": 97}
    assert claims(vectors, "bad_bodyflip")["hardware"] == 97


def test_the_input_has_trustees_names_and_forms(vectors: Path) -> None:
    given = trustee_input(verified(vectors / "attestation" / "real" / "dcapqvl-tdx-v4"))["tdx"]
    quote, attributes = given.pop("quote"), given.pop("td_attributes")
    assert set(quote) == {"header", "body"}
    assert (quote["header"]["version"], quote["header"]["reserved"]) == ("0400", "00000000")
    assert set(attributes) == {"debug", "septve_disable", "protection_keys", "key_locker", "perfmon"}
    assert given == {
        "advisory_ids": [],
        "collateral_expiration_status": "0",
        "earliest_issue_date": "2018-05-21T10:45:10Z",
        "latest_issue_date": "2025-06-19T10:32:27Z",
        "earliest_expiration_date": "2025-07-19T10:00:35Z",
        "tcb_date": "2024-03-13T00:00:00Z",
        "tcb_status": "UpToDate",
        "tcb_status_current": "UpToDate",
        "tcb_eval_num": 17,
        "pck_crl_num": 1,
        "root_ca_crl_num": 1,
        "sgx_type": "Scalable",
        "is_dynamic_platform": True,
        "is_cached_keys": True,
        "is_smt_enabled": True,
        "platform_provider_id": given["platform_provider_id"],
        "platform_instance_id": given["platform_instance_id"],
        "root_key_id": INTEL_ROOT_KEY_ID,
        "report_data": quote["body"]["report_data"],
        "init_data": quote["body"]["mr_config_id"],
    }
    assert len(given["platform_provider_id"]) == len(given["platform_instance_id"]) == 32


def test_the_input_of_a_tdx_1_5_quote(vectors: Path) -> None:
    quote = trustee_input(verified(vectors / "attestation" / "synthetic" / "ok_v5_td15"))["tdx"]["quote"]
    assert (quote["type"], quote["size"]) == ("0300", "88020000")
    assert (len(quote["body"]["tee_tcb_svn2"]), len(quote["body"]["mr_servicetd"])) == (32, 96)
    assert "tcb_status_current" not in trustee_input(verified(vectors / "attestation" / "synthetic" / "bad_bodyflip"))


def test_rules_and_token(vectors: Path) -> None:
    verification = verified(vectors / "attestation" / "synthetic" / "ok_v5_td15")
    quote: Any = verification.quote
    for values, accepted, executables in ((reference(quote.body), True, 3), ({}, False, 33)):
        rego = RegoPolicy(POLICY, values)
        appraisal = appraise(verification, Policy(), more=rego.rules(trustee_input(verification)))
        assert appraisal.accepted == accepted, appraisal.failed
        vector = ear.trustworthiness_vector(appraisal)
        assert vector["executables"] == executables
        assert vector["hardware"] == (2 if accepted else 97)
        assert "file-system" not in vector or vector["file-system"] == 0


def test_events(vectors: Path) -> None:
    folder = vectors / "measurement" / "gce-cos-113"
    events = event_members(load((folder / "ccel_data.dat").read_bytes()).log)
    text = POLICY.replace(
        "input.tdx.td_attributes.debug == false",
        'some event in input.tdx.uefi_event_logs; event.type_name == "EV_IPL"; '
        'startswith(event.details.string, "kernel_cmdline: /syslinux/vmlinuz.A")',
    )
    verification = verified(vectors / "attestation" / "synthetic" / "ok_v5_td15")
    quote: Any = verification.quote
    policy = RegoPolicy(text, reference(quote.body))
    assert policy.evaluate(trustee_input(verification, events))["configuration"] == 2
    assert policy.evaluate(trustee_input(verification))["configuration"] == 36


@pytest.mark.parametrize("source", ["", "package policy\nexecutables := {", "package other\nexecutables := 3", "x"])
def test_what_is_no_policy(source: str) -> None:
    with pytest.raises(UsageError, match="Rego policy"):
        RegoPolicy.from_text(source).evaluate({})


@pytest.mark.parametrize("values", ["[]", "{", "[" * 100000])
def test_what_are_no_reference_values(values: str) -> None:
    with pytest.raises(UsageError, match="reference values"):
        RegoPolicy.from_text(POLICY, values)


def test_command(vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = vectors / "attestation" / "synthetic" / "ok_v5_td15"
    quote: Any = verified(folder).quote
    (tmp_path / "policy.rego").write_text(POLICY)
    (tmp_path / "values.json").write_text(json.dumps(reference(quote.body)))
    argv = ["quote", "verify", str(folder / "quote.bin"), "--collateral", str(folder / "collateral.json")]
    argv += ["--trust-root", str(folder / "root.der"), "--at", "1781481600", "--json"]
    rego = ["--rego", str(tmp_path / "policy.rego")]
    assert main([*argv, *rego, "--reference-values", str(tmp_path / "values.json")]) == 0
    capsys.readouterr()
    assert main([*argv, *rego]) == 3
    rules = json.loads(capsys.readouterr().out)["policy"]["rules"]
    assert {rule["name"] for rule in rules if rule["outcome"] == "fail"} == {
        "rego.executables",
        "rego.hardware",
        "rego.configuration",
    }
    assert main([*argv, "--reference-values", str(tmp_path / "values.json")]) == 2


@pytest.mark.parametrize("claim", ['"33"', "3.5", "128", "-129", "true", "[33]"])
def test_a_claim_that_is_no_claim_is_not_passed_over(vectors: Path, claim: str) -> None:
    source = f"package policy\nimport rego.v1\nhardware := 2\nexecutables := {claim}\n"
    verification = verified(vectors / "attestation" / "synthetic" / "ok_v5_td15")
    with pytest.raises(UsageError, match="executables is"):
        RegoPolicy.from_text(source).evaluate(trustee_input(verification))

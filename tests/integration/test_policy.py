"""Policies made from a real TD and from its prediction, and a Rego policy, on the evidence of that TD."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import Tdxctl

pytestmark = pytest.mark.integration

#: In the shape of Trustee's: AR4SI numbers, 2 and 3 affirm.
REGO = """package policy
import rego.v1

default executables := 33
default hardware := 97
default configuration := 36

executables := 3 if input.tdx.quote.body.rtmr_2 in query_reference_value("rtmr_2")
hardware := 2 if input.tdx.quote.body.mr_td in query_reference_value("mr_td")
configuration := 2 if {
    input.tdx.td_attributes.debug == false
    some event in input.tdx.uefi_event_logs
    event.type_name == "EV_SEPARATOR"
}
"""


@pytest.fixture
def evidence(tdxctl: Tdxctl, quickstart: Any, tmp_path: Path) -> Path:
    """The files of one attestation of the TD that is up."""
    folder = tmp_path / "evidence"
    tdxctl.ok("attest", quickstart["td"]["name"], "--output", str(folder))
    return folder


def test_of_the_td_and_of_its_prediction(tdxctl: Tdxctl, quickstart: Any, evidence: Path, tmp_path: Path) -> None:
    name = quickstart["td"]["name"]
    prediction = tmp_path / "prediction.json"
    prediction.write_text(tdxctl.ok("measure", "predict", "--td", name, "--json"))
    verify = ("quote", "verify", *_evidence(tdxctl, evidence), "--json")
    for made in (("from-td", name), ("from-prediction", str(prediction))):
        policy = tmp_path / f"{made[0]}.toml"
        policy.write_text(tdxctl.ok("policy", *made))
        tdxctl.ok("policy", "check", str(policy))
        judged = json.loads(tdxctl.ok(*verify, "--policy", str(policy)))
        passed = {rule["name"] for rule in judged["policy"]["rules"] if rule["outcome"] == "pass"}
        assert (judged["accepted"], judged["status"]) == (True, "UpToDate")
        assert {"td.mr_tds", "td.rtmr0", "td.rtmr1", "td.rtmr2"} <= passed, made
        register = quickstart["rtmr"][2]["quoted"]
        assert register in policy.read_text().lower()
        policy.write_text(policy.read_text().lower().replace(register, "ab" * 48))
        refused = tdxctl(*verify, "--policy", str(policy))
        failed = [rule for rule in json.loads(refused.stdout)["policy"]["rules"] if rule["outcome"] == "fail"]
        assert (refused.returncode, [rule["name"] for rule in failed]) == (3, ["td.rtmr2"])
        assert register in json.dumps(failed), "both values are named"
        assert "ab" * 48 in json.dumps(failed)


def test_a_rego_policy(tdxctl: Tdxctl, quickstart: Any, evidence: Path, tmp_path: Path) -> None:
    pytest.importorskip("regopy")
    policy, values = tmp_path / "policy.rego", tmp_path / "values.json"
    policy.write_text(REGO)
    registers = {"rtmr_2": quickstart["rtmr"][2]["quoted"], "mr_td": quickstart["mrtd"]["quoted"]}
    values.write_text(json.dumps({name: [value] for name, value in registers.items()}))
    verify = ("quote", "verify", *_evidence(tdxctl, evidence), "--json", "--rego", str(policy))
    log = ("--event-log", str(evidence / "ccel.bin"))
    assert json.loads(tdxctl.ok(*verify, *log, "--reference-values", str(values)))["accepted"] is True
    cases = {
        log: {"rego.executables", "rego.hardware"},
        ("--reference-values", str(values)): {"rego.configuration"},
    }
    for given, failed in cases.items():
        refused = tdxctl(*verify, *given)
        rules = json.loads(refused.stdout)["policy"]["rules"]
        assert (refused.returncode, {rule["name"] for rule in rules if rule["outcome"] == "fail"}) == (3, failed)


def _evidence(tdxctl: Tdxctl, folder: Path) -> tuple[str, ...]:
    """The quote, with collateral and root of the software platform."""
    exported = folder / "platform"
    tdxctl.ok("platform", "export", "software", str(exported))
    root, collateral = exported / "root.der", exported / "collateral.json"
    return (str(folder / "quote.bin"), "--collateral", str(collateral), "--trust-root", str(root))

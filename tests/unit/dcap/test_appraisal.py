"""Policy: every setting can make evidence fall, the strict default refuses what Intel's verifier lets pass."""

from __future__ import annotations

import json
import tomllib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from tdxstack.dcap import Collateral, Verification, Verifier
from tdxstack.dcap.appraisal import Appraisal, appraise, is_collateral_fault
from tdxstack.dcap.policy import Policy, schema
from tdxstack.errors import UsageError


@pytest.fixture(scope="session")
def attestation(vectors: Path) -> Path:
    return vectors / "attestation"


def verified(folder: Path, now: int | None = None, **changes: str) -> Verification:
    collateral = Collateral.from_json((folder / "collateral.json").read_text())
    root: list[str | bytes] = ["intel"]
    expected = folder / "expected.json"
    if expected.exists():
        root = [(folder / "root.der").read_bytes()]
        now = now or json.loads(expected.read_text())["now"]
    else:
        now = now or json.loads((folder / "meta.json").read_text())["valid_from"]
    quote = (folder / "quote.bin").read_bytes()
    return Verifier(collateral=replace(collateral, **changes), roots=root).verify(quote, now=now)


def synthetic(attestation: Path, name: str, policy: dict[str, Any] | None = None) -> Appraisal:
    verification = verified(attestation / "synthetic" / name)
    return appraise(verification, Policy.from_members(policy or {}))


STRICT = {
    "td_debug": "td.allow_debug",
    "td_no_septve": "td.require_sept_ve_disable",
    "td_reserved": "td.allow_reserved_attributes",
    "servtd": "td.allow_service_td",
    "pck_not_yet": "collateral.require_not_before",
    "tcbsign_not_yet": "collateral.require_not_before",
    "tcbinfo_future": "collateral.require_issued",
    "qeid_future": "collateral.require_issued",
    "plat_OutOfDate": "tcb.accepted_statuses",
    "relaunch_modOOD_to_UTD": "tcb.accepted_statuses",
}


@pytest.mark.parametrize(("name", "rule"), STRICT.items())
def test_strict_default_refuses(attestation: Path, name: str, rule: str) -> None:
    appraisal = synthetic(attestation, name)
    assert appraisal.verification.authentic
    assert not appraisal.accepted
    assert rule in [failed.name for failed in appraisal.failed]
    assert not is_collateral_fault(appraisal)


SWITCHED = {
    "td_debug": {"td": {"allow_debug": True}},
    "td_no_septve": {"td": {"require_sept_ve_disable": False}},
    "td_reserved": {"td": {"allow_reserved_attributes": True}},
    "servtd": {"td": {"allow_service_td": True}},
    "pck_not_yet": {"collateral": {"require_not_before": False}},
    "tcbinfo_future": {"collateral": {"require_issued": False}},
    "plat_OutOfDate": {"tcb": {"accepted_statuses": ["OutOfDate"]}},
    "relaunch_modOOD_to_UTD": {
        "tcb": {"accepted_statuses": ["TDRelaunchAdvised"], "accepted_current_statuses": ["UpToDate"]}
    },
    "pckcrl_expired": {"collateral": {"grace_days": 400}},
    "tcbinfo_expired": {"collateral": {"grace_days": 400}},
    "modOOD_plat_UpToDate": {"tcb": {"grace_days": 4000}},
}


@pytest.mark.parametrize(("name", "policy"), SWITCHED.items())
def test_each_switch_lets_pass(attestation: Path, name: str, policy: dict[str, Any]) -> None:
    assert not synthetic(attestation, name).accepted
    appraisal = synthetic(attestation, name, policy)
    assert appraisal.accepted, appraisal.failed


REFUSING: dict[str, dict[str, Any]] = {
    "tcb.min_evaluation_number": {"tcb": {"min_evaluation_number": 20}},
    "platform.tees": {"platform": {"tees": ["sgx"]}},
    "platform.fmspcs": {"platform": {"fmspcs": ["00a067110000"]}},
    "platform.instance_ids": {"platform": {"instance_ids": ["00" * 16]}},
    "platform.ppids": {"platform": {"ppids": "00" * 16}},
    "platform.sgx_types": {"platform": {"sgx_types": [2]}},
    "td.attributes": {"td": {"attributes": "0x8000000010000000"}},
    "td.xfam": {"td": {"xfam": 3}},
    "td.mr_seams": {"td": {"mr_seams": ["11" * 48]}},
    "td.mr_tds": {"td": {"mr_tds": ["11" * 48, "22" * 48]}},
    "td.rtmr0": {"td": {"rtmr0": "ff" * 48}},
    "td.rtmr1": {"td": {"rtmr1": "ff" * 48}},
    "td.rtmr2": {"td": {"rtmr2": "ff" * 48}},
    "td.rtmr3": {"td": {"rtmr3": "ff" * 48}},
    "td.mr_config_ids": {"td": {"mr_config_ids": "ff" * 48}},
    "td.mr_owners": {"td": {"mr_owners": "ff" * 48}},
    "td.mr_owner_configs": {"td": {"mr_owner_configs": "ff" * 48}},
    "td.mr_service_tds": {"td": {"mr_service_tds": "ff" * 48}},
    "binding.report_data": {"binding": {"report_data": "abcd"}},
}


@pytest.mark.parametrize(("rule", "policy"), REFUSING.items())
def test_each_wanted_value_refuses_another(attestation: Path, rule: str, policy: dict[str, Any]) -> None:
    assert synthetic(attestation, "ok_v5_td15").accepted
    appraisal = synthetic(attestation, "ok_v5_td15", policy)
    assert [failed.name for failed in appraisal.failed] == [rule]
    assert appraisal.failed[0].wanted != appraisal.failed[0].actual


def test_platform_flags(attestation: Path) -> None:
    names = ("allow_dynamic_platform", "allow_cached_keys", "allow_smt")
    folder = attestation / "real" / "dcapqvl-tdx-v4"
    policy = Policy.from_members({"platform": dict.fromkeys(names, False)})
    failed = [rule.name for rule in appraise(verified(folder), policy).failed]
    assert failed == [f"platform.{name}" for name in names]


def test_the_same_values_are_accepted(attestation: Path) -> None:
    verification = verified(attestation / "synthetic" / "ok_v5_td15")
    quote = verification.quote
    assert quote is not None
    body: Any = quote.body
    policy = {
        "td": {
            "attributes": body.td_attributes,
            "xfam": f"{body.xfam:#x}",
            "mr_tds": [body.mr_td.hex()],
            **{f"rtmr{index}": body.rtmrs[index].hex() for index in range(4)},
            "mr_service_tds": [body.mr_service_td.hex()],
        },
        "platform": {"fmspcs": verification.supplemental.fmspc},
    }
    assert appraise(verification, Policy.from_members(policy), report_data=body.report_data).accepted
    other = bytes([body.report_data[0] ^ 1]) + body.report_data[1:]
    assert not appraise(verification, Policy.from_members(policy), report_data=other).accepted


def test_report_data_is_padded_not_cut(attestation: Path) -> None:
    verification = verified(attestation / "synthetic" / "ok_v5_td15")
    assert verification.quote is not None
    data = verification.quote.body.report_data
    assert not appraise(verification, Policy(), report_data=data[:32] if any(data[32:]) else data[:8]).accepted


def test_advisories(attestation: Path) -> None:
    verification = verified(attestation / "real" / "zkdcap-v4")
    accept = {"accepted_statuses": ["OutOfDate"]}
    assert appraise(verification, Policy.from_members({"tcb": accept})).accepted
    for more, rule in (
        ({"rejected_advisories": ["INTEL-SA-00982"]}, "tcb.rejected_advisories"),
        ({"rejected_advisories": ["*"]}, "tcb.rejected_advisories"),
        ({"accepted_advisories": ["INTEL-SA-00982"]}, "tcb.accepted_advisories"),
    ):
        appraisal = appraise(verification, Policy.from_members({"tcb": accept | more}))
        assert [failed.name for failed in appraisal.failed] == [rule]


def test_expired_collateral_is_its_own_fault(attestation: Path) -> None:
    appraisal = synthetic(attestation, "tcbinfo_expired")
    assert appraisal.verification.authentic
    assert not appraisal.accepted
    assert is_collateral_fault(appraisal)
    future = synthetic(attestation, "pckcrl_future", {"collateral": {"grace_days": 4000}})
    assert not future.accepted


def test_unequal_evaluation_numbers(attestation: Path) -> None:
    other = json.loads((attestation / "real" / "gotdx-v5" / "collateral.json").read_text())
    folder = attestation / "real" / "dcapqvl-tdx-v5-outdated"
    changes = {name: other[name] for name in other if name.startswith("qe_identity")}
    numbers = [rule.name for rule in appraise(verified(folder, **changes), Policy()).failed]
    assert "tcb.require_equal_evaluation_numbers" in numbers


def test_real_quotes_pass_all_but_their_tcb(attestation: Path) -> None:
    """No strict rule of form refuses a quote of Intel's that there is."""
    for folder in sorted((attestation / "real").iterdir()):
        failed = {rule.name for rule in appraise(verified(folder), Policy()).failed}
        allowed = {"tcb.accepted_statuses", "tcb.require_equal_evaluation_numbers"}
        if folder.name == "gotdx-spr-e4-v4":
            allowed.add("td.require_sept_ve_disable")
        if folder.name == "gotdx-v5":
            allowed |= {"collateral.require_issued"}
        assert failed <= allowed, folder.name


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[td]\nallow_debgu = true", "allow_debgu"),
        ("[tdd]", "tdd"),
        ("[td]\nallow_debug = 1", "allow_debug"),
        ('[td]\nmr_tds = "zz"', "mr_tds"),
        ("[td]\nattributes = -1", "attributes"),
        ('[tcb]\naccepted_statuses = ["Revoked"]', "accepted_statuses"),
        ("td = 1", "td"),
        ("[tcb]\ngrace_days = -1", "grace_days"),
        ('{"tcb": {"min_evaluation_number": 1.5}}', "min_evaluation_number"),
        ('{"schema": "other"}', "schema"),
        ("{", "policy"),
        ("= 1", "policy"),
        ('{"name": 3}', "name"),
        ('[td]\nmr_tds = ["aa"]', "td.mr_tds: aa has 1 bytes where 48 belong"),
        (f'[td]\nrtmr0 = "{"aa" * 32}"', "td.rtmr0: .* has 32 bytes where 48 belong"),
        ('[platform]\nfmspcs = ["00806f05"]', "platform.fmspcs: 00806f05 has 4 bytes where 6 belong"),
        (f'[enclave]\nmr_signers = "{"aa" * 48}"', "enclave.mr_signers: .* has 48 bytes where 32 belong"),
        (f'[binding]\nreport_data = "{"aa" * 65}"', "binding.report_data: .* has 65 bytes where up to 64 belong"),
        ('[platform]\ntees = ["TDX"]', "platform.tees: 'TDX' is not one of tdx, sgx"),
        ("[platform]\nsgx_types = [3]", "platform.sgx_types: 3 is not one of 0, 1, 2"),
        ('{"td": {"allow_debug": false}, "td": {"allow_debug": true}}', "more than once"),
    ],
)
def test_a_wrong_policy_names_the_setting(text: str, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        Policy.from_text(text)


def test_round_trip() -> None:
    policy = Policy.from_members({"name": "mine", "td": {"attributes": 5, "mr_tds": ["aa" * 48]}})
    assert Policy.from_members(policy.to_members(defaults=False)) == policy
    assert Policy.from_text(json.dumps(policy.to_members(defaults=False))) == policy
    assert Policy.from_members(policy.to_members()) == policy
    assert Policy().to_members(defaults=False) == {"schema": "tdxstack/policy/v1", "name": "strict"}


def test_published_schema_is_that_of_the_code() -> None:
    project = Path(__file__).resolve().parents[3]
    assert json.loads((project / "docs" / "reference" / "policy.schema.json").read_text()) == schema()


def test_every_setting_is_exercised_here() -> None:
    source = Path(__file__).read_text() + Path(__file__).with_name("test_event_rules.py").read_text()
    for section in fields(Policy):
        if section.name != "name":
            for item in fields(type(getattr(Policy(), section.name))):
                assert item.name in source, f"{section.name}.{item.name} has no test"


#: Settings that no vector can show: named so that the test above counts them, tested below (require_named_pck beside
#: the forms of certification data).
FORM = ("require_low_s", "require_qe_report_data_tail", "require_reserved_header", "check_xfam_fixed_bits")


@pytest.mark.parametrize("name", FORM)
def test_form(attestation: Path, name: str) -> None:
    """Rules are judged on what was read, whether or not it verifies."""
    folder = attestation / "synthetic" / "ok_v5_td15"
    raw = bytearray((folder / "quote.bin").read_bytes())
    at = {"require_low_s": 54 + 648 + 4 + 32, "require_qe_report_data_tail": 54 + 648 + 4 + 128 + 6 + 320 + 40}
    raw[at.get(name, 8 if name == "require_reserved_header" else 54 + 128 + 7)] = 0xFF
    collateral = Collateral.from_json((folder / "collateral.json").read_text())
    verifier = Verifier(collateral=collateral, roots=[(folder / "root.der").read_bytes()])
    section = "td" if name == "check_xfam_fixed_bits" else "collateral"
    for wanted in (True, False):
        policy = Policy.from_members({section: {name: wanted}})
        failed = [rule.name for rule in appraise(verifier.verify(bytes(raw), now=1781481600), policy).failed]
        assert (f"{section}.{name}" in failed) == wanted


@pytest.mark.parametrize(
    ("name", "bit"), [("allow_migratable", 29), ("allow_pks", 30), ("allow_key_locker", 31), ("allow_perfmon", 63)]
)
def test_attribute_switches(attestation: Path, name: str, bit: int) -> None:
    folder = attestation / "synthetic" / "ok_v5_td15"
    raw = bytearray((folder / "quote.bin").read_bytes())
    raw[54 + 120 + bit // 8] |= 1 << bit % 8
    verifier = Verifier(collateral=Collateral.from_json((folder / "collateral.json").read_text()))
    verification = verifier.verify(bytes(raw), now=1781481600)
    for allowed in (True, False):
        failed = [rule.name for rule in appraise(verification, Policy.from_members({"td": {name: allowed}})).failed]
        assert (f"td.{name}" in failed) == (not allowed)
    masked = {"td": {"attributes": 0x10000000, "attributes_mask": 0x10000000, "xfam": 3, "xfam_mask": 3}}
    failed = [rule.name for rule in appraise(verification, Policy.from_members(masked)).failed]
    assert not {"td.attributes", "td.xfam"} & set(failed)


def test_enclaves(attestation: Path) -> None:
    verification = verified(attestation / "real" / "dcapqvl-sgx-v3")
    accept = {"tcb": {"accepted_statuses": ["ConfigurationAndSWHardeningNeeded"]}}
    for name, value in (
        ("mr_enclaves", "00" * 32),
        ("mr_signers", "00" * 32),
        ("isv_prod_ids", [7000]),
        ("min_isv_svn", 7000),
    ):
        failed = appraise(verification, Policy.from_members(accept | {"enclave": {name: value}})).failed
        assert [rule.name for rule in failed if rule.name != "enclave.allow_debug"] == [f"enclave.{name}"]


def test_software_platforms_can_be_refused(attestation: Path) -> None:
    """No vector says that it is a software platform's; what a name says is tested with the platform itself."""
    appraisal = synthetic(attestation, "ok_v4_mod1", {"platform": {"allow_software": False}})
    assert appraisal.accepted
    assert "platform.allow_software" not in [rule.name for rule in appraisal.rules]


def test_example_policy_in_the_documentation() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "reference" / "attestation.md").read_text()
    example = page.split("```toml\n")[1].split("```")[0]
    assert Policy.from_members(tomllib.loads(example)).to_members(defaults=False)

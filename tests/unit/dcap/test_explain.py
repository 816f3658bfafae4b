"""Explanations: which component lacks what, and which kind of work mends it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tdxstack.dcap.compare import compare, status_by
from tdxstack.dcap.explain import Explanation, Remedy, explain
from tdxstack.dcap.tcb_info import TcbInfo
from unit.dcap.test_appraisal import verified


def of(vectors: Path, name: str, kind: str = "synthetic") -> Explanation:
    return explain(verified(vectors / "attestation" / kind / name))


def gaps(explanation: Explanation) -> list[tuple[str, int, int]]:
    return [(gap.component, gap.have, gap.need) for part in explanation.launch for gap in part.gaps]


def test_up_to_date_has_nothing_to_mend(vectors: Path) -> None:
    explanation = of(vectors, "ok_v5_td15")
    assert (gaps(explanation), explanation.remedies, explanation.note) == ([], (), "")
    assert [part.part for part in explanation.launch] == ["platform", "tdx-module", "quoting-enclave"]


@pytest.mark.parametrize(
    ("name", "expected", "remedies"),
    [
        ("relaunch_modOOD_to_UTD", [("TDX_01 ISVSVN", 5, 6)], [Remedy.RELAUNCH]),
        ("relaunch_modOOD_to_UTD_cfg", [("TDX_01 ISVSVN", 5, 6)], [Remedy.RELAUNCH, Remedy.CONFIGURATION]),
        ("modOOD_plat_UpToDate", [("TDX_01 ISVSVN", 5, 6)], [Remedy.MODULE]),
        ("plat_tdx2_low", [("tdxtcbcomponents[2]", 2, 3)], [Remedy.FIRMWARE]),
        ("plat_tdx2_none", [("tdxtcbcomponents[2]", 1, 3)], [Remedy.FIRMWARE]),
        ("relaunch_launch_REV", None, [Remedy.RELAUNCH]),
        ("relaunch_sgx_OOD", None, [Remedy.RELAUNCH, Remedy.FIRMWARE]),
        ("modREV_plat_UpToDate", None, [Remedy.REPLACE]),
        ("qeREV_plat_UpToDate", None, [Remedy.QE]),
    ],
)
def test_remedies(
    vectors: Path, name: str, expected: list[tuple[str, int, int]] | None, remedies: list[Remedy]
) -> None:
    explanation = of(vectors, name)
    if expected is not None:
        assert gaps(explanation) == expected
    assert list(explanation.remedies) == remedies


def test_pcesvn(vectors: Path) -> None:
    assert ("pcesvn", 7, 13) in gaps(of(vectors, "plat_pcesvn_mid"))


def test_unknown_module(vectors: Path) -> None:
    explanation = of(vectors, "mod_id_missing")
    assert "tdx_module" in explanation.note
    assert any("TDX_05 is unknown" in gap.name for part in explanation.launch for gap in part.gaps)
    assert gaps(explanation) == [("tdx-module major version", 5, 3)]
    assert list(explanation.remedies) == [Remedy.COLLATERAL], "a module that is newer than the collateral"


def test_real_out_of_date_platform(vectors: Path) -> None:
    explanation = of(vectors, "zkdcap-v4", "real")
    assert gaps(explanation) == [("sgxtcbcomponents[0]", 6, 7), ("sgxtcbcomponents[1]", 6, 7)]
    assert explanation.launch[0].gaps[0].name == "BIOS: Early Microcode Update"
    assert list(explanation.remedies) == [Remedy.FIRMWARE]
    assert explanation.launch[0].advisories == ("INTEL-SA-00960", "INTEL-SA-00982", "INTEL-SA-00986")


def test_configuration_is_not_called_firmware(vectors: Path) -> None:
    explanation = of(vectors, "dcapqvl-sgx-v3", "real")
    assert gaps(explanation) == [("sgxtcbcomponents[6]", 0, 12)]
    assert list(explanation.remedies) == [Remedy.CONFIGURATION, Remedy.HARDENING]


def test_what_cannot_be_read_is_not_explained(vectors: Path) -> None:
    explanation = of(vectors, "ver6")
    assert explanation.launch == ()
    assert "quote_format" in explanation.note


def test_next_evaluation(vectors: Path) -> None:
    """Module SVN 7 wanted where 6 was enough: quotes of modules below fall out."""
    verification = verified(vectors / "attestation" / "synthetic" / "ok_v5_td15")
    documents = verification.documents
    assert documents.tcb_info
    assert documents.identity
    old = (documents.tcb_info, documents.identity)
    text = verification.verifier.collateral.tcb_info.replace('{"isvsvn":6}', '{"isvsvn":9}')
    text = text.replace('"pcesvn":13', '"pcesvn":14', 1).replace('Number":19', 'Number":20')
    new = (TcbInfo.from_json(text), documents.identity)
    changes = {change.subject: change for change in compare(old, new)}
    module = changes["TDX module TDX_01 SVN 6"]
    assert (module.old, module.new, module.falls_out) == ("UpToDate", "OutOfDate", True)
    platforms = [change for subject, change in changes.items() if subject.startswith("platform") and change.falls_out]
    assert [change.detail for change in platforms] == ["pcesvn 13 < 14"]
    assert not any(change.falls_out for change in compare(old, old))
    assert (status_by(verification, *old), status_by(verification, *new)) == ("UpToDate", "OutOfDate")

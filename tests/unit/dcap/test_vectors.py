"""Verdicts of real and synthetic vectors: the same as those of Intel's Quote Verification Library 1.27."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tdxstack.dcap import Collateral, Verifier
from tdxstack.dcap.status import QvlStatus

_PROJECT = Path(__file__).resolve().parents[3]
VECTORS = Path(os.environ.get("TDXSTACK_VECTORS", _PROJECT.parent / "shared" / "vectors")) / "attestation"
DAY = 24 * 3600


def folders(kind: str) -> list[object]:
    return list(_folders(kind))


def _folders(kind: str) -> Iterator[object]:
    found = sorted((VECTORS / kind).glob("*/quote.bin"))
    for quote in found:
        yield pytest.param(quote.parent, id=quote.parent.name)
    if not found:
        yield pytest.param(None, marks=pytest.mark.skip(f"no vectors at {VECTORS / kind} (set TDXSTACK_VECTORS)"))


def load(folder: Path) -> tuple[bytes, Collateral]:
    return (folder / "quote.bin").read_bytes(), Collateral.from_json((folder / "collateral.json").read_text())


@pytest.mark.parametrize("folder", folders("synthetic"))
def test_synthetic(folder: Path) -> None:
    expected = json.loads((folder / "expected.json").read_text())
    quote, collateral = load(folder)
    result = Verifier(collateral=collateral, roots=[(folder / "root.der").read_bytes()]).verify(
        quote, now=expected["now"]
    )
    assert [str(status) for status in result.qvl] == expected["intel_qvl_1_27"], result.judgement
    detail = expected["intel_qvl_1_27_detail"]
    assert (result.launch_status, result.current_status) == (
        detail.get("launch_status"),
        detail.get("current_status"),
    )
    if result.verdict:
        launch, current = detail["launch_sa"], detail["current_sa"]
        assert sorted(result.verdict.launch.advisories) == sorted(filter(None, launch.split(",")))
        assert sorted(result.verdict.current.advisories) == sorted(filter(None, current.split(",")))


@pytest.mark.parametrize("folder", folders("synthetic"))
def test_synthetic_is_never_trusted_under_intels_root(folder: Path) -> None:
    expected = json.loads((folder / "expected.json").read_text())
    quote, collateral = load(folder)
    result = Verifier(collateral=collateral).verify(quote, now=expected["now"])
    assert not result.authentic


@pytest.mark.parametrize("folder", folders("real"))
def test_real(folder: Path) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    quote, collateral = load(folder)
    verifier = Verifier(collateral=collateral, roots=["intel"])
    if meta["name"] == "gotdx-v5":
        check_crossed(quote)
        return
    for now in (meta["valid_from"], (meta["valid_from"] + meta["valid_to"]) // 2, meta["valid_to"]):
        result = verifier.verify(quote, now=now)
        assert result.qvl[:3] == (QvlStatus.OK, QvlStatus.OK, QvlStatus.OK), result.judgement
        if meta["expected"].startswith("rejected: "):
            assert (result.authentic, result.status) == (False, meta["expected"].removeprefix("rejected: "))
            assert result.launch_status is None
        else:
            name, _, advisories = meta["expected"].partition(" ")
            assert (result.authentic, result.status) == (True, name)
            assert sorted(result.advisories) == sorted(filter(None, advisories.strip("()").split(", ")))
    early, late = (
        verifier.verify(quote, now=now) for now in (meta["valid_from"] - 3600 * 24 * 40, meta["valid_to"] + 1)
    )
    assert late.expired
    assert (
        late.status in ("SGX_TCB_INFO_EXPIRED", "SGX_ENCLAVE_IDENTITY_EXPIRED", "SGX_CRL_EXPIRED")
        or not late.authentic
    )
    assert early.expired
    assert result.supplemental.fmspc == meta["fmspc"]
    assert result.supplemental.tcb_evaluation_number == meta["tcb_evaluation_data_number"]
    assert result.supplemental.earliest_expiration_date == meta["valid_to"]


def check_crossed(quote: bytes) -> None:
    """A quote whose own collateral was never valid at one time, with that of another machine of its FMSPC."""
    folder = VECTORS / "real" / "dcapqvl-tdx-v5-outdated"
    _, collateral = load(folder)
    now = json.loads((folder / "meta.json").read_text())["valid_from"]
    result = Verifier(collateral=collateral).verify(quote, now=now)
    assert (result.authentic, result.status) == (True, "UpToDate")

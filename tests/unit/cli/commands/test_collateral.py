"""``tdxctl collateral compare`` of what cannot be compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from unit.cli.commands.test_quote import run


@pytest.fixture(scope="session")
def real(vectors: Path) -> Path:
    return vectors / "attestation" / "real" / "dcapqvl-tdx-v4"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.replace("00806f050000", "b0c06f000000"), "FMSPC b0c06f000000"),
        (lambda text: "{", "new.json: collateral: "),
        (lambda text: text.replace("tcbLevels", "tcbLvels"), "new.json: tcbLevels"),
    ],
)
def test_what_cannot_be_compared(
    capsys: pytest.CaptureFixture[str], real: Path, tmp_path: Path, change: Callable[[str], str], says: str
) -> None:
    old, new = real.parent / "zkdcap-v4" / "collateral.json", tmp_path / "new.json"
    new.write_text(change(old.read_text()))
    status, body = run(capsys, "collateral", "compare", old, new)
    assert (status, says in body["message"]) == (5, True), body["message"]


def test_collateral_of_another_tee_is_not_compared(capsys: pytest.CaptureFixture[str], real: Path) -> None:
    sgx = real.parent / "dcapqvl-sgx-v3" / "collateral.json"
    status, body = run(capsys, "collateral", "compare", sgx, real / "collateral.json")
    assert (status, body["message"]) == (
        5,
        "OLD is for SGX with FMSPC 00a067110000, NEW for TDX with FMSPC b0c06f000000",
    )

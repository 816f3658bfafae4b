"""``tdxctl collateral compare`` of what cannot be compared; quotes judged by a bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tdxstack.cli.main import main
from unit.cli.commands.test_quote import run

BUNDLE = '{"schema": "tdxstack/collateral-bundle/v1"'


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


@pytest.fixture(scope="session")
def bundle(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two evaluations of one FMSPC, and two other platforms."""
    path = tmp_path_factory.mktemp("bundle") / "bundle.json"
    names = ("zkdcap-v4", "flashbots-dcap-v4", "dcapqvl-tdx-v4", "dcapqvl-sgx-v3")
    files = [str(real.parent / name / "collateral.json") for name in names]
    assert main(["collateral", "bundle", *files, "-o", str(path)]) == 0
    return path


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("zkdcap-v4", "OutOfDate"),
        ("flashbots-dcap-v4", "UpToDate"),
        ("dcapqvl-tdx-v4", "UpToDate"),
        ("dcapqvl-sgx-v3", "ConfigurationAndSWHardeningNeeded"),
    ],
)
def test_a_bundle_has_what_held_for_the_quotes_platform(
    capsys: pytest.CaptureFixture[str], real: Path, bundle: Path, name: str, status: str
) -> None:
    folder = real.parent / name
    at = str(json.loads((folder / "meta.json").read_text())["valid_from"])
    code, body = run(capsys, "quote", "verify", folder / "quote.bin", "--collateral", bundle, "--at", at)
    assert (code, body["status"]) == (0 if status == "UpToDate" else 3, status)
    later = run(capsys, "quote", "verify", folder / "quote.bin", "--collateral", bundle)
    assert (later[0], later[1]["status"]) == (5, "SGX_CRL_EXPIRED"), "what there is, though it is over"


@pytest.mark.parametrize(
    ("quote", "text", "code", "says"),
    [
        ("gotdx-spr-e4-v4", None, 5, "no collateral of TDX 50806F000000"),
        (None, None, 3, "the quote does not tell"),
        ("zkdcap-v4", BUNDLE, 3, "not JSON"),
        ("zkdcap-v4", BUNDLE + "}", 3, "not tdxstack/collateral-bundle/v1 with up to 1024 entries"),
        ("zkdcap-v4", BUNDLE + ', "entries": [{}]}', 3, "an entry without collateral"),
        ("zkdcap-v4", BUNDLE + ', "entries": []}', 5, "no collateral of TDX 00806F050000"),
    ],
)
def test_bundles_without_what_is_wanted(
    capsys: pytest.CaptureFixture[str],
    real: Path,
    bundle: Path,
    tmp_path: Path,
    quote: str | None,
    text: str | None,
    code: int,
    says: str,
) -> None:
    raw, given = tmp_path / "quote.bin", tmp_path / "bundle.json"
    raw.write_bytes((real.parent / quote / "quote.bin").read_bytes() if quote else b"no quote")
    given.write_text(text if text is not None else bundle.read_text())
    status, body = run(capsys, "quote", "verify", raw, "--collateral", given)
    assert (status, body["authentic"]) == (code, False)
    assert says in body["steps"][0]["detail"], body["steps"][0]


def test_texts_may_begin_with_a_byte_order_mark(
    capsys: pytest.CaptureFixture[str], real: Path, bundle: Path, tmp_path: Path
) -> None:
    """As editors on Windows write them."""
    policy, collateral = tmp_path / "policy.toml", tmp_path / "collateral.json"
    policy.write_bytes(b"\xef\xbb\xbf[td]\nallow_debug = true\n")
    assert run(capsys, "policy", "check", policy)[0] == 0
    at = str(json.loads((real / "meta.json").read_text())["valid_from"])
    for file in (real / "collateral.json", bundle):
        collateral.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
        assert run(capsys, "quote", "verify", real / "quote.bin", "--collateral", collateral, "--at", at)[0] == 0
    assert main(["collateral", "bundle", str(collateral), "-o", str(tmp_path / "again.json")]) == 0

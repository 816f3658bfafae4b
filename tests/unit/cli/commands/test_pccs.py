"""``tdxctl pccs`` and the fetching verbs of ``tdxctl collateral``, without a network."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from tdxstack.cli.main import main
from tdxstack.errors import ExitCode
from tdxstack.platform.software.platform import SoftwarePlatform
from tdxstack.services.pccs.settings import Settings
from tdxstack.services.pccs.tokens import Token


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    SoftwarePlatform.create("demo")
    folder = tmp_path / "pccs"
    assert main(["pccs", "init", str(folder), "--upstream", "platform:demo", "--mode", "OFFLINE"]) == ExitCode.DONE
    return folder


def test_init_keeps_secrets_to_the_owner_and_hashes_in_the_settings(directory: Path) -> None:
    settings = Settings.load(directory / "pccs.toml")
    for name, configured in (("user-token", settings.user_token), ("admin-token", settings.admin_token)):
        token = (directory / name).read_text().strip()
        assert Token(configured).matches(token)
        assert token not in (directory / "pccs.toml").read_text()
        assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((directory / "tls.key").stat().st_mode) == 0o600
    assert settings.host == "127.0.0.1"


def test_init_does_not_overwrite(directory: Path) -> None:
    before = (directory / "pccs.toml").read_bytes()
    assert main(["pccs", "init", str(directory)]) == ExitCode.FAILED
    assert (directory / "pccs.toml").read_bytes() == before


def test_init_leaves_no_settings_where_it_fails(tmp_path: Path) -> None:
    arguments = ["pccs", "init", str(tmp_path / "p"), "--upstream", "platform:none"]
    assert main(arguments) == ExitCode.UNSUPPORTED
    assert not (tmp_path / "p" / "pccs.toml").exists()


def test_import_and_status(directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(directory / "pccs.toml")
    held = tmp_path / "collateral.json"
    held.write_text(json.dumps(SoftwarePlatform.open("demo").collateral()))
    capsys.readouterr()
    assert main(["pccs", "import", "-c", config, str(held)]) == ExitCode.DONE
    assert "4 documents, 0 platforms" in capsys.readouterr().err
    assert main(["pccs", "status", "-c", config, "--json"]) == ExitCode.DONE
    status = json.loads(capsys.readouterr().out)
    assert status["schema"] == "tdxstack/pccs-status/v1"
    assert {one["kind"]: one["number"] for one in status["documents"]} == {
        "identity": 1,
        "pckcrl": 1,
        "rootcacrl": 1,
        "tcb": 1,
    }
    assert status["expired"] == []


def test_import_refuses_what_is_signed_under_another_root(
    directory: Path, vectors: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = vectors / "attestation" / "synthetic" / "ok_v4_mod1"
    config = str(directory / "pccs.toml")
    assert main(["pccs", "import", "-c", config, str(folder / "collateral.json")]) == ExitCode.COLLATERAL
    assert "not a trusted root" in capsys.readouterr().err
    bad = tmp_path / "bad.json"
    for text in ("", "{}", '{"collaterals": 1}', "\xff"):
        bad.write_bytes(text.encode("latin-1"))
        assert main(["pccs", "import", "-c", config, str(bad)]) in (ExitCode.COLLATERAL, ExitCode.USAGE)


def test_status_says_what_has_expired(tmp_path: Path, vectors: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "pccs"
    assert main(["pccs", "init", str(folder), "--mode", "OFFLINE"]) == ExitCode.DONE
    config = str(folder / "pccs.toml")
    real = vectors / "attestation" / "real" / "dcapqvl-tdx-v4" / "collateral.json"
    assert main(["pccs", "import", "-c", config, str(real)]) == ExitCode.DONE
    capsys.readouterr()
    assert main(["pccs", "status", "-c", config]) == ExitCode.COLLATERAL
    assert "expired 2025-07-19" in capsys.readouterr().out


def test_archive_and_bundle(vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = vectors / "attestation" / "real" / "dcapqvl-tdx-v4"
    bundle = tmp_path / "bundle.json"
    assert main(["collateral", "bundle", str(folder / "collateral.json"), "-o", str(bundle)]) == ExitCode.DONE
    assert main(["collateral", "archive", "add", str(bundle)]) == ExitCode.DONE
    capsys.readouterr()
    assert main(["collateral", "archive", "list", "--json"]) == ExitCode.DONE
    rows = json.loads(capsys.readouterr().out)["entries"]
    assert [(row["fmspc"], row["tcb_evaluation_data_number"]) for row in rows] == [("B0C06F000000", 17)]
    find = ["collateral", "archive", "find", "--quote", str(folder / "quote.bin"), "--at"]
    assert main([*find, "2025-07-01T00:00:00Z"]) == ExitCode.DONE
    held = json.loads((folder / "collateral.json").read_text())
    assert json.loads(capsys.readouterr().out)["tcb_info"] == held["tcb_info"]
    assert main([*find, "2026-07-01T00:00:00Z"]) == ExitCode.COLLATERAL


def test_fetching_offline_what_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collateral", "fetch", "--fmspc", "00806F050000", "--offline"]) == ExitCode.COLLATERAL
    assert "next: fetch it" in capsys.readouterr().err
    assert main(["collateral", "fetch", "--fmspc", "x"]) == ExitCode.USAGE
    assert main(["collateral", "cache", "--json", "--clear", "all"]) == ExitCode.DONE

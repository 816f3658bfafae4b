from __future__ import annotations

import json
from pathlib import Path

import pytest

from tdxstack.cli.main import main


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TDXSTACK_HOME", str(tmp_path))
    return tmp_path


def test_a_dry_run_says_what_is_missing_and_makes_none_of_it(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quickstart", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["schema"] == "tdxstack/quickstart-plan/v1"
    assert (plan["firmware"], plan["image"]) == (None, None)
    assert plan["steps"][:2] == ["download the firmware", "build the guest image debian-13"]
    assert plan["steps"][-1].startswith("delete the TD")
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_a_dry_run_keeps_what_is_to_be_kept(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    firmware = home / "OVMF.fd"
    firmware.write_bytes(b"")
    assert main(["quickstart", "--dry-run", "--keep", "--firmware", str(firmware)]) == 0
    said = capsys.readouterr().out
    assert "download the firmware" not in said
    assert "delete the TD" not in said

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from host_trees import HOSTS
from tdx_modules import MODULE, blob, releases, signer, sigstruct
from tdxstack.cli.main import main
from tdxstack.errors import ExitCode
from tdxstack.measure import seam


@pytest.fixture(autouse=True)
def _tests_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seam.check_module, "__defaults__", (signer(),))


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A good upstream host with an ESP and the firmware upload device."""
    root = tmp_path / "host"
    shutil.copytree(HOSTS / "good-upstream", root)
    (root / "sys/devices/faux/tdx_host/version").write_text("1.5.08\n")
    (root / "boot/efi/EFI/TDX").mkdir(parents=True)
    upload = root / "sys/class/firmware/tdx_module"
    upload.mkdir(parents=True)
    for name, text in (("loading", "0"), ("data", ""), ("status", "idle"), ("error", "")):
        (upload / name).write_text(text)
    return root


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    return releases(tmp_path / "releases", "1.5.05", "1.5.09", "1.5.16", "2.0.08")


def test_show(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["module", "show", "--root", str(host), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["schema"], shown["module"], shown["loader"]) == ("tdxstack/module/v1", "1.5.08", "2.0.00")
    assert main(["module", "show", "--root", str(HOSTS / "good-1.5")]) == 0
    assert main(["module", "show", "--root", str(HOSTS / "problem-01-bios-half-configured")]) == ExitCode.UNSUPPORTED


def test_check_a_shelf(host: Path, shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["module", "check", str(shelf), "--root", str(host), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["running"] == "1.5.08"
    assert [(one["version"], bool(one["reasons"])) for one in found["modules"]] == [
        ("1.5.05", True),
        ("1.5.09", False),
        ("1.5.16", False),
        ("2.0.08", True),
    ]


def test_a_damaged_module_is_rejected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.so").write_bytes(MODULE[::-1])
    (tmp_path / "m.so.sigstruct").write_bytes(sigstruct())
    assert main(["module", "check", str(tmp_path / "m.so"), "--root", str(tmp_path)]) == ExitCode.REJECTED
    assert "digest" in capsys.readouterr().out


def test_stage_and_roll_back(host: Path, shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(shelf / "joined_files/1.5/tdx_module_1.5.16.blob")
    esp = host / "boot/efi/EFI/TDX"
    (esp / "TDX-SEAM.so").write_bytes(b"before")
    assert main(["module", "stage", source, "--root", str(host), "--dry-run"]) == 0
    assert (esp / "TDX-SEAM.so").read_bytes() == b"before"
    assert "TDX-SEAM.so.sigstruct" in capsys.readouterr().err
    for _ in range(2):
        assert main(["module", "stage", source, "--root", str(host), "--yes"]) == 0
    assert (esp / "TDX-SEAM.so").read_bytes() == MODULE
    assert (esp / "TDX-SEAM.so.sigstruct").read_bytes() == blob().sigstruct.raw
    assert main(["module", "rollback", "--root", str(host), "--yes"]) == 0
    assert {path.name: path.read_bytes() for path in esp.iterdir()} == {"TDX-SEAM.so": b"before"}
    assert main(["module", "rollback", "--root", str(host), "--yes"]) == 1


def test_a_debug_module_is_not_staged(host: Path, tmp_path: Path) -> None:
    path = tmp_path / "debug.blob"
    path.write_bytes(blob(debug=True).to_bytes())
    assert main(["module", "stage", str(path), "--root", str(host), "--yes"]) == ExitCode.REJECTED
    assert main(["module", "stage", str(path), "--root", str(host), "--yes", "--dangerous-debug"]) == 0


def test_update_takes_the_newest_that_fits(host: Path, shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    upload = host / "sys/class/firmware/tdx_module"
    assert main(["module", "update", str(shelf), "--root", str(host), "--dry-run"]) == 0
    said = capsys.readouterr().err
    assert "tdx_module_1.5.16.blob" in said
    assert f"echo 1 > {upload}/loading" in said
    assert (upload / "data").read_bytes() == b""
    assert main(["module", "update", str(shelf), "--root", str(host), "--yes"]) == 0
    assert (upload / "data").stat().st_size == 2 * 4096 + len(MODULE)


def test_an_update_that_would_end_tds_is_refused(host: Path, shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for release, words in (("1.5.05", "older"), ("2.0.08", "another line")):
        assert main(["module", "update", str(shelf), "--release", release, "--root", str(host), "--yes"]) == 1
        assert words in capsys.readouterr().err
    assert (host / "sys/class/firmware/tdx_module/data").read_bytes() == b""


def test_without_a_terminal_it_asks_for_yes(host: Path, shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["module", "update", str(shelf), "--root", str(host)]) == ExitCode.USAGE
    assert "--yes" in capsys.readouterr().err


def test_a_kernel_that_cannot_update(host: Path, shelf: Path) -> None:
    shutil.rmtree(host / "sys/class/firmware/tdx_module")
    assert main(["module", "update", str(shelf), "--root", str(host), "--yes"]) == ExitCode.UNSUPPORTED

"""``tdxctl pccs register`` and ``registration`` on captured files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tdxstack.cli.main import main
from tdxstack.errors import ExitCode
from tdxstack.wire.sgx_registration import (
    SERVER_REQUEST,
    STATUS,
    RegistrationStatus,
    RequestType,
    ServerRequest,
    StatusFlag,
)

GUIDS = {
    RequestType.PLATFORM: "178e874b49e44aa599bb3057170925b4",
    RequestType.ADD_PACKAGE: "696519ca73c14785a0f64d289d37e995",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "sys/firmware/efi/efivars").mkdir(parents=True)
    return tmp_path


def put_request(tree: Path, kind: RequestType = RequestType.PLATFORM) -> bytes:
    data = bytes.fromhex(GUIDS[kind]) + b"\4\0\1\0" + bytes(12) + b"data"
    (tree / "sys/firmware/efi/efivars" / SERVER_REQUEST).write_bytes(ServerRequest(kind, data).to_bytes())
    return data


def put_status(tree: Path, flags: StatusFlag, error: int) -> None:
    status = RegistrationStatus(flags, error)
    (tree / "sys/firmware/efi/efivars" / STATUS).write_bytes(status.to_bytes())


def test_a_registered_platform(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_status(tree, StatusFlag.REGISTRATION_COMPLETE, 0)
    assert main(["pccs", "registration", "--root", str(tree), "--json"]) == ExitCode.DONE
    assert json.loads(capsys.readouterr().out) == {
        "schema": "tdxstack/pccs-registration/v1",
        "registered": True,
        "status": 1,
        "error_code": 0,
        "pending": None,
    }


def test_a_platform_that_waits(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_status(tree, StatusFlag(0), 0x85)
    put_request(tree)
    assert main(["pccs", "registration", "--root", str(tree)]) == ExitCode.FAILED
    assert "not registered (status 0x0, error 0x85); the BIOS asks for: platform" in capsys.readouterr().out


def test_a_machine_without_the_variables(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pccs", "registration", "--root", str(tree)]) == ExitCode.UNSUPPORTED
    assert "no UEFI variable SgxRegistrationStatus" in capsys.readouterr().err


def test_what_would_be_sent(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = put_request(tree)
    register = ["pccs", "register", "--root", str(tree), "--dry-run"]
    assert main([*register, "--manifest", "ab" * 16]) == ExitCode.DONE
    assert data.hex().upper() in capsys.readouterr().err
    assert main([*register, "--direct"]) == ExitCode.DONE
    assert f"PLATFORM: {len(data)} bytes to https://api.trustedservices.intel.com" in capsys.readouterr().err
    assert main([*register, "--manifest", "xyz"]) == ExitCode.USAGE
    put_request(tree, RequestType.ADD_PACKAGE)
    assert main([*register, "--manifest", "ab" * 16]) == ExitCode.USAGE
    assert "only Intel can do" in capsys.readouterr().err


def test_csv_and_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "pckid.csv"
    path.write_text(f"{'a' * 768},0000,{'0' * 32},0b00,{'c' * 32}\n")
    assert main(["pccs", "register", "--csv", str(path), "--dry-run"]) == ExitCode.DONE
    assert "C" * 32 in capsys.readouterr().err
    assert main(["pccs", "register", "--csv", str(path)]) == ExitCode.USAGE
    assert "--token-file" in capsys.readouterr().err

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from firmware_file import GENERIC_4M, firmware_file
from tdxstack.cli.main import main
from tdxstack.cli.paper import run_ovmfkeyenroll
from tdxstack.firmware.enroll import certificate_lists
from tdxstack.firmware.keys import read_certificate
from tdxstack.vm.marker_kernel import marker_kernel
from tdxstack.wire.efi.varstore import VariableStore
from tdxstack.wire.pe import authenticode
from varstore_file import with_store

GUID = "0d9b4a60-e0bf-4a66-b9b1-db1b98f87770"


@pytest.fixture
def firmware(tmp_path: Path) -> Path:
    path = tmp_path / "OVMF.fd"
    path.write_bytes(with_store(firmware_file(GENERIC_4M)))
    return path


@pytest.fixture
def keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert main(["firmware", "keys", "new", str(tmp_path / "keys"), "--json"]) == 0
    assert [one["role"] for one in document(capsys)["keys"]] == ["PK", "KEK", "db"]
    return tmp_path / "keys"


def document(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(capsys.readouterr().out)
    return body


def test_enroll_and_show(firmware: Path, keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new.fd"
    argv = ["firmware", "enroll", str(firmware), "-o", str(target), "--keys", str(keys), "--dbx", "ab" * 32]
    assert main([*argv, "--dry-run", "--json"]) == 0
    assert document(capsys)["file"] is None
    assert not target.exists()
    assert main([*argv, "--json"]) == 0
    body = document(capsys)
    assert body["schema"] == "tdxstack/firmware-change/v1"
    assert body["mrtd_unchanged"] is True
    assert "variable db" in [one["event"] for one in body["rtmr0_events"]]
    assert body["warnings"]
    assert main(["firmware", "show", str(target), "--json"]) == 0
    body = document(capsys)
    assert body["schema"] == "tdxstack/firmware/v1"
    variables = {one["name"]: one for one in body["variables"]}
    assert variables["PK"]["signatures"] == ["CN=tdxstack PK"]
    assert variables["dbx"]["signatures"] == ["ab" * 32]
    assert main(["firmware", "show", str(target)]) == 0
    assert "CN=tdxstack db" in capsys.readouterr().out


def test_keys_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["firmware", "keys", "new", str(tmp_path / "keys"), "--dry-run", "--json"]) == 0
    assert document(capsys)["keys"][2]["key"] == str(tmp_path / "keys" / "db.key")
    assert not (tmp_path / "keys").exists()


def test_what_dbx_takes(firmware: Path, keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, update, lists = tmp_path / "x.efi", tmp_path / "dbxupdate.bin", tmp_path / "dbx.esl"
    image.write_bytes(marker_kernel())
    lists.write_bytes(certificate_lists([read_certificate(keys / "KEK.pem")]))
    update.write_bytes(bytes(16) + (24).to_bytes(4, "little") + bytes(20) + lists.read_bytes())
    words = [str(path) for path in (keys / "db.pem", image, update, lists)]
    argv = ["firmware", "enroll", str(firmware), "-o", str(tmp_path / "new.fd"), "--keys", str(keys)]
    assert main([*argv, *(word for one in words for word in ("--dbx", one)), "--owner", GUID, "--json"]) == 0
    capsys.readouterr()
    assert main(["firmware", "show", str(tmp_path / "new.fd"), "--json"]) == 0
    (dbx,) = [one for one in document(capsys)["variables"] if one["name"] == "dbx"]
    digest = authenticode(marker_kernel(), "sha256")[0].hex()
    assert dbx["signatures"] == ["CN=tdxstack KEK", "CN=tdxstack KEK", "CN=tdxstack db", digest]
    image.write_bytes(b"MZ")
    assert main([*argv, "--dbx", str(image)]) == 2
    assert main([*argv, "--dbx", str(tmp_path / "none")]) == 2


def test_fetch_of_an_unknown_firmware(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["firmware", "fetch", "none"]) == 2
    assert "secure-boot" in capsys.readouterr().err


def test_set_var(firmware: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new.fd"
    common = ["firmware", "set-var", str(firmware), "-o", str(target), "--name", "KBSURL", "--guid", GUID]
    assert main([*common, "--text", "https://kbs:8080", "--json"]) == 0
    assert document(capsys)["rtmr0_events"][0]["event"] == "configuration volume"
    assert b"https://kbs:8080" in target.read_bytes()
    assert main([*common[:2], str(target), *common[3:], "--delete", "--json"]) == 0
    assert target.read_bytes() == firmware.read_bytes()
    assert main([*common, "--hex", "zz"]) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--name", "", "--hex", "00"], "has a name"),
        (["--name", "A", "--hex", ""], "--delete"),
        (["--name", "A", "--text", ""], "--delete"),
        (["--name", "A", "--hex", "0g"], "hexadecimal"),
        (["--name", "\udcff", "--hex", "00"], "has a name"),
        (["--name", "\U0001f600", "--hex", "00"], "has a name"),
        (["--name", "A", "--hex", "00", "--attributes", "-1"], "--attributes"),
        (["--name", "A", "--hex", "00", "--attributes", "4294967296"], "--attributes"),
    ],
)
def test_what_is_no_variable(
    options: list[str], words: str, firmware: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new.fd"
    assert main(["firmware", "set-var", str(firmware), "-o", str(out), "--guid", GUID, *options]) == 2
    assert words in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("content", [b"", bytes(4096), b"no firmware" * 100])
def test_what_is_no_firmware_is_not_shown(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_bytes(content)
    assert main(["firmware", "show", str(tmp_path / "file"), "--json"]) == 1
    assert document(capsys)["structure"] == "firmware volume"


def test_enroll_without_keys(firmware: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["firmware", "enroll", str(firmware), "-o", str(tmp_path / "x")]) == 2
    assert "--keys DIR" in capsys.readouterr().err


def test_ovmfkeyenroll_as_the_paper_has_it(
    firmware: Path, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["-fd", str(firmware)]
    for option, role in (("-pk", "PK"), ("-kek", "KEK"), ("-db", "db")):
        argv += [option, GUID, str(keys / f"{role}.pem")]
    assert run_ovmfkeyenroll(argv) == 0
    first = (tmp_path / "OVMF.sb.fd").read_bytes()
    assert "MRTD unchanged" in capsys.readouterr().out
    assert run_ovmfkeyenroll(argv) == 0
    assert (tmp_path / "OVMF.sb.fd").read_bytes() == first
    assert run_ovmfkeyenroll([*argv, "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "OVMF.sb.fd").read_bytes() == first
    off = tmp_path / "off"
    off.write_bytes(b"\0")
    switch = ["-secure_boot", "f0a30bc7-af08-4556-99c4-001009c93a44", str(off)]
    assert run_ovmfkeyenroll([*argv[:5], *switch, "-o", str(tmp_path / "off.fd")]) == 0
    store = VariableStore.from_bytes((tmp_path / "off.fd").read_bytes())
    assert {one.name: len(one.value) for one in store.variables if one.name != "PK"} == {"SecureBootEnable": 1}
    assert store.variables[-1].value == b"\0"
    assert run_ovmfkeyenroll([*argv[:5], "-secure_boot", GUID, str(off)]) == 2
    assert run_ovmfkeyenroll([*argv[:2], "-pk", "no-guid", *argv[4:]]) == 2
    assert run_ovmfkeyenroll(["-fd", str(firmware)]) == 2
    assert run_ovmfkeyenroll(["-fd", "/nonexistent", *argv[2:]]) == 2

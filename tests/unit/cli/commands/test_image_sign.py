from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

import efi_disk
from firmware_file import GENERIC_4M, firmware_file
from tdxstack.cli.main import main
from tdxstack.system import paths
from tdxstack.vm.marker_kernel import marker_kernel
from varstore_file import with_store

pytestmark = pytest.mark.processes


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """A directory with keys, an EFI program and a disk; it is the working directory."""
    monkeypatch.chdir(tmp_path)
    assert main(["firmware", "keys", "new", "keys"]) == 0
    Path("vmlinuz").write_bytes(marker_kernel())
    efi_disk.make(tmp_path / "disk.raw", {"EFI/BOOT/BOOTX64.EFI": marker_kernel()})
    capsys.readouterr()
    return tmp_path


def document(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(capsys.readouterr().out)
    return body


def test_one_program(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["image", "sign", "vmlinuz", "--keys", "keys", "--json"]
    assert main([*argv, "--dry-run"]) == 0
    assert document(capsys)["image"] is None
    assert not (place / "vmlinuz.sb").exists()
    assert main(argv) == 0
    body = document(capsys)
    assert body["schema"] == "tdxstack/image-signed/v1"
    assert body["image"] == "vmlinuz.sb"
    (file,) = body["files"]
    assert (file["kind"], file["already_signed"]) == ("kernel", False)
    assert file["rtmr1"]["before"] == file["rtmr1"]["after"]
    assert file["file_sha384"]["before"] != file["file_sha384"]["after"]
    assert main(argv) == 2  # there already, and nobody to ask
    assert "--yes" in capsys.readouterr().err
    assert main([*argv, "--yes"]) == 0


def test_sbverify_takes_what_was_signed_by_that_key_alone(place: Path) -> None:
    assert main(["image", "sign", "vmlinuz", "--keys", "keys", "-o", "first"]) == 0
    assert main(["image", "sign", "vmlinuz", "--keys", "keys", "-o", "second"]) == 0
    assert (place / "first").read_bytes() == (place / "second").read_bytes()

    def verified(name: str, certificate: str) -> bool:
        done = subprocess.run(["sbverify", "--cert", certificate, name], capture_output=True, check=False)
        return done.returncode == 0

    assert verified("first", "keys/db.pem")
    assert not verified("first", "keys/KEK.pem")
    assert not verified("vmlinuz", "keys/db.pem")


def test_a_disk_in_place(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["image", "sign", "disk.raw", "--key", "keys/db.key", "--cert", "keys/db.pem", "--in-place"]
    assert main(argv) == 2
    assert main([*argv, "--yes"]) == 0
    text = capsys.readouterr().out
    assert "BOOTX64.EFI (partition 1): signed" in text
    assert "MRTD unchanged" in text
    assert main([*argv, "--dry-run"]) == 0
    assert "signed already" in capsys.readouterr().out


def test_usage(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (
        ["image", "sign", "vmlinuz"],
        ["image", "sign", "none.qcow2", "--keys", "keys"],
        ["image", "sign", "no-such-image", "--keys", "keys"],
        ["image", "sign", "vmlinuz", "--keys", "none"],
        ["image", "sign", "vmlinuz", "--keys", "keys", "-o", "none/x"],
    ):
        assert main(argv) == 2, argv
    assert "next:" in capsys.readouterr().err


def test_secure_boot_in_one_go(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The made-up firmware has no compressed volume, so that whether secure boot is built in cannot be told.
    Path("OVMF.fd").write_bytes(with_store(firmware_file(GENERIC_4M)))
    argv = ["firmware", "secure-boot", "disk.raw", "OVMF.fd", "--keys", "new", "--json"]
    assert main([*argv, "--dry-run"]) == 0
    body = document(capsys)
    assert body["keys"] == {"directory": None, "made": False}
    assert all(one["after"] is None for one in body["rtmr0_events"])
    assert not {"new", "OVMF.sb.fd", "disk.sb.raw"} & set(os.listdir(place))
    assert main([*argv, "--output-dir", str(place)]) == 0
    body = document(capsys)
    assert body["schema"] == "tdxstack/secure-boot/v1"
    assert body["keys"] == {"directory": "new", "made": True}
    assert body["mrtd_unchanged"] is True
    assert Path(body["firmware"]).exists()
    assert Path(body["image"]).exists()
    assert body["files"][0]["authority"]
    first = Path(body["firmware"]).read_bytes()
    assert main([*argv, "--yes"]) == 0
    assert document(capsys)["keys"]["made"] is False
    assert Path("OVMF.sb.fd").read_bytes() == first
    assert main([*argv[:-1], "--yes", "--dbx", "disk.raw"]) == 2  # neither an image nor a certificate


def test_an_image_of_the_list_signed_by_another_key_is_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = paths.images() / "debian-13-aa"
    folder.mkdir(parents=True)
    (folder / "vmlinuz").write_bytes(marker_kernel())
    for name in ("disk.raw", "initrd.img"):
        (folder / name).write_bytes(b"x")
    files = {role: {"name": name, "sha256": "aa"} for role, name in (("disk", "disk.raw"), ("initrd", "initrd.img"))}
    manifest: dict[str, Any] = {
        "recipe": "debian-13",
        "boot": "direct",
        "key": "k",
        "created": "2026-01-01T00:00:00Z",
    }
    manifest |= {"cmdline": "ro", "files": files | {"kernel": {"name": "vmlinuz", "sha256": "aa"}}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    argv = ["image", "sign", "debian-13-aa", "--json", "--keys"]
    assert main([*argv, "keys"]) == 0
    first = document(capsys)["image"]
    assert main([*argv, "keys"]) == 0
    captured = capsys.readouterr()
    assert (json.loads(captured.out)["image"], "delete" in captured.err) == (first, False)
    assert main(["firmware", "keys", "new", "others"]) == 0
    capsys.readouterr()
    assert main([*argv, "others"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["image"] != first
    assert f"tdxctl image delete {first}" in captured.err

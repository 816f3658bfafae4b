from __future__ import annotations

from pathlib import Path

import pytest

from tdx_modules import blob
from tdxstack.errors import PlatformMissing, StateError, SystemFault
from tdxstack.platform import linux_module
from tdxstack.platform.linux_module import Reload, Upload
from tdxstack.wire.seam import BlobVersion, TdxBlob


def _upload(root: Path, *, status: str = "idle", error: str = "") -> Upload:
    directory = root / "sys/class/firmware/tdx_module"
    directory.mkdir(parents=True)
    for name, text in (("loading", "0"), ("data", ""), ("status", status), ("error", error)):
        (directory / name).write_text(f"{text}\n")
    found = Upload.find(root)
    assert found is not None
    return found


def test_an_upload_hands_the_kernel_its_form_of_the_blob(tmp_path: Path) -> None:
    upload = _upload(tmp_path)
    upload.replace(blob(), pause=lambda seconds: None)
    written = TdxBlob.from_bytes((upload.directory / "data").read_bytes())
    assert written.version is BlobVersion.TWO
    assert written.module == blob().module
    assert (upload.directory / "loading").read_bytes() == b"0"


def test_an_upload_waits_until_the_kernel_is_idle(tmp_path: Path) -> None:
    upload = _upload(tmp_path)
    stages = ["idle", "preparing", "transferring", "programming", "idle", "idle"]
    read = Upload._read

    def told(self: Upload, name: str) -> str:
        return stages.pop(0) if name == "status" else read(self, name)

    waits: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Upload, "_read", told)
        upload.replace(blob(), pause=waits.append)
    assert len(waits) == 3


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("transferring:firmware-invalid", "TDX may be off until a reboot"),
        ("preparing:firmware-invalid", "before anything changed"),
        ("transferring:device-busy", "a TD is being built"),
    ],
)
def test_errors_of_the_kernel(tmp_path: Path, error: str, words: str) -> None:
    waits: list[float] = []
    with pytest.raises(SystemFault) as caught:
        _upload(tmp_path, error=error).replace(blob(), pause=waits.append)
    assert words in caught.value.message
    assert caught.value.hint
    assert bool(waits) == error.endswith("busy")


def test_an_update_that_is_under_way(tmp_path: Path) -> None:
    with pytest.raises(StateError):
        _upload(tmp_path, status="programming").replace(blob(), pause=lambda seconds: None)


def test_an_update_that_never_ends(tmp_path: Path) -> None:
    upload = _upload(tmp_path)
    answers = iter(["idle", *["programming"] * 100])
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemFault) as caught:
        patch.setattr(Upload, "_read", lambda self, name: next(answers))
        upload.replace(blob(), pause=lambda seconds: None, timeout=2.0)
    assert "did not end within 2 s" in caught.value.message


def test_the_1_5_stack_gets_files_and_a_word(tmp_path: Path) -> None:
    word = tmp_path / linux_module.RELOAD
    word.parent.mkdir(parents=True)
    word.write_text("")
    firmware = tmp_path / linux_module.FIRMWARE
    firmware.mkdir(parents=True)
    (firmware / "libtdx.bin").write_bytes(b"the old one")
    reload = Reload.find(tmp_path)
    assert reload is not None
    reload.replace(blob())
    assert word.read_text() == "update"
    assert (firmware / "libtdx.bin").read_bytes() == blob().module
    assert (firmware / "libtdx.bin.old").read_bytes() == b"the old one"
    linux_module.roll_back(firmware, linux_module.rollback_plan(firmware))
    assert {path.name: path.read_bytes() for path in firmware.iterdir()} == {"libtdx.bin": b"the old one"}


def test_a_refused_reload_brings_the_files_back(tmp_path: Path) -> None:
    (tmp_path / linux_module.RELOAD).mkdir(parents=True)
    with pytest.raises(SystemFault):
        Reload(tmp_path).replace(blob())
    assert list((tmp_path / linux_module.FIRMWARE).iterdir()) == []


def test_staging_twice_keeps_the_first_files(tmp_path: Path) -> None:
    directory = tmp_path / "EFI/TDX"
    directory.mkdir(parents=True)
    (directory / "TDX-SEAM.so").write_bytes(b"the vendor's")
    for content in (b"first", b"second", b"second"):
        linux_module.apply(directory, linux_module.plan(directory, {"TDX-SEAM.so": content, "new": content}))
    assert (directory / "TDX-SEAM.so").read_bytes() == b"second"
    linux_module.roll_back(directory, linux_module.rollback_plan(directory))
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == {"TDX-SEAM.so": b"the vendor's"}


def test_nothing_to_roll_back(tmp_path: Path) -> None:
    with pytest.raises(StateError):
        linux_module.rollback_plan(tmp_path)


def test_a_kept_file_that_was_changed_is_not_brought_back(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    linux_module.apply(tmp_path, linux_module.plan(tmp_path, {"a": b"new"}))
    (tmp_path / "a.old").write_bytes(b"tampered")
    with pytest.raises(StateError):
        linux_module.rollback_plan(tmp_path)


def test_the_esp(tmp_path: Path) -> None:
    with pytest.raises(PlatformMissing):
        linux_module.find_esp(tmp_path)
    (tmp_path / "boot/efi/EFI").mkdir(parents=True)
    assert linux_module.find_esp(tmp_path) == tmp_path / "boot/efi"

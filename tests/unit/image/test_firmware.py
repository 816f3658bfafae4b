"""The firmware: cached, checked, and never a file other than the tested one under a tested version."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from tdxstack.errors import SystemFault, UsageError
from tdxstack.image import firmware
from tdxstack.system import paths

DATA = b"firmware"
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Versions that the stand-in mirror hands out, one for each download."""
    versions: list[str] = []

    def fetch(work: Path, _: str) -> tuple[Path, str]:
        work.mkdir(parents=True)
        return work / "x.deb", versions.pop(0)

    def extract(argv: list[str], **_: object) -> None:
        for source in firmware.SOURCES.values():
            for name in source.members:
                member = Path(argv[-1]) / name
                member.parent.mkdir(parents=True, exist_ok=True)
                member.write_bytes(DATA)

    monkeypatch.setattr(firmware, "_fetch_package", fetch)
    monkeypatch.setattr(firmware, "run", extract)
    for name in ("generic", "secure-boot"):
        known = replace(firmware.SOURCES[name], tested={"1": DIGEST, "0": "0" * 64})
        monkeypatch.setitem(firmware.SOURCES, name, known)
    return versions


def test_downloaded_once(packages: list[str]) -> None:
    packages.append("1")
    said: list[str] = []
    first = firmware.default_firmware(said.append)
    assert (first.sha256, first.version, first.tested) == (DIGEST, "1", True)
    assert first.path.read_bytes() == DATA
    assert DIGEST in said[-1]
    assert firmware.default_firmware() == first


def test_another_version_is_taken_and_said(packages: list[str]) -> None:
    packages.append("2")
    said: list[str] = []
    assert not firmware.default_firmware(said.append).tested
    assert "not the tested version 1" in said[-1]


def test_a_tested_version_with_another_content_is_refused(packages: list[str]) -> None:
    packages.append("0")
    with pytest.raises(SystemFault, match="was tested"):
        firmware.default_firmware()
    assert [path.name for path in (paths.cache() / "firmware").iterdir()] == [".lock"]


def test_a_changed_cache_is_not_used(packages: list[str]) -> None:
    packages.extend(["1", "1"])
    firmware.default_firmware().path.write_bytes(b"changed")
    again = firmware.default_firmware()
    assert again.path.read_bytes() == DATA
    assert packages == []


def test_parts_are_joined_and_kept_beside_the_default(packages: list[str]) -> None:
    packages.extend(["2", "1", "2"])
    default = firmware.default_firmware()
    with pytest.raises(SystemFault, match=r"OVMF\.secboot\.fd has sha256"):
        firmware.named_firmware("secure-boot")  # two parts are not the one that is known under this version
    joined = firmware.named_firmware("secure-boot")
    assert joined.path.read_bytes() == DATA * 2
    assert joined == firmware.named_firmware("secure-boot")
    assert firmware.default_firmware() == default
    assert firmware.is_name("secure-boot")
    assert not firmware.is_name("OVMF.fd")


def test_own_file(tmp_path: Path) -> None:
    (tmp_path / "OVMF.fd").write_bytes(DATA)
    assert firmware.firmware_file(tmp_path / "OVMF.fd").sha256 == DIGEST
    with pytest.raises(UsageError):
        firmware.firmware_file(tmp_path / "none")


def test_without_a_mirror(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(firmware, "configured_mirror", lambda _: None)
    with pytest.raises(SystemFault) as caught:
        firmware.default_firmware()
    assert "--firmware FILE" in str(caught.value.hint)
    assert not list((paths.cache() / "firmware").glob(".download*"))

"""What building RHEL takes from its host, and what is said where the host has no subscription."""

from __future__ import annotations

from pathlib import Path

import pytest

from tdxstack.cli.main import main
from tdxstack.errors import PlatformMissing
from tdxstack.image.subscription import subscription


def test_a_registered_host(tmp_path: Path) -> None:
    authority, entitlement = tmp_path / "etc/rhsm/ca", tmp_path / "etc/pki/entitlement"
    authority.mkdir(parents=True)
    entitlement.mkdir(parents=True)
    (authority / "redhat-uep.pem").touch()
    with pytest.raises(PlatformMissing, match="not registered"):
        subscription("rhel", None, tmp_path)
    (entitlement / "1234-key.pem").touch()
    assert subscription("rhel", None, tmp_path) == {
        authority: "/etc/rhsm/ca",
        entitlement: "/etc/pki/entitlement",
    }


def test_who_needs_none(tmp_path: Path) -> None:
    assert subscription("rhel", "https://mirror.example/rhel", tmp_path) == {}
    assert subscription("centos", None, tmp_path) == {}


@pytest.mark.skipif(Path("/etc/rhsm/ca/redhat-uep.pem").exists(), reason="this host may be registered")
def test_without_one_the_build_ends_before_it_begins(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TDXSTACK_MIRROR_RHEL", raising=False)
    assert main(["image", "build", "rhel-9"]) == 4
    assert "centos-9" in capsys.readouterr().err

"""Packages are built from their sources, in both formats; the TDVF that is built is measured and boots.

``TDXSTACK_TEST_PACKAGES`` names a directory that keeps what was built between runs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dnf_root import dnf_words
from integration.conftest import Tdxctl
from tdxstack.deploy.packaging.roots import DEBIAN_MIRROR
from tdxstack.image.mirror import configured_mirror

pytestmark = [
    pytest.mark.integration,
    pytest.mark.network,
    pytest.mark.slow,
    pytest.mark.timeout(3 * 3600),
    pytest.mark.skipif(os.geteuid() != 0, reason="builds need root"),
    pytest.mark.skipif(shutil.which("createrepo_c") is None, reason="needs createrepo-c"),
]

BUILD_SECONDS = 2 * 3600


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kept = os.environ.get("TDXSTACK_TEST_PACKAGES")
    return Path(kept) if kept else tmp_path_factory.mktemp("packages")


def _build(tdxctl: Tdxctl, place: Path, name: str, *more: str) -> Any:
    argv = ("build", "package", name, "--format", "deb", "--format", "rpm", "--output", str(place))
    return tdxctl.json(*argv, *more, timeout=BUILD_SECONDS)


def _output(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def test_a_small_package_in_both_formats_twice(tdxctl: Tdxctl, place: Path) -> None:
    built = _build(tdxctl, place, "shim")["packages"][0]
    files = {Path(one["path"]).suffix: one for one in built["files"]}
    assert set(files) == {".deb", ".rpm"}
    repo = place / "guest_repo"
    assert {"Packages", "Release", "InRelease", "repodata", "tdxstack.gpg"} <= {path.name for path in repo.iterdir()}
    assert "shimx64.efi" in _output("dpkg-deb", "--contents", str(place / files[".deb"]["path"]))
    assert "shimx64.efi" in _output("rpm", "--query", "--package", "--list", str(place / files[".rpm"]["path"]))
    assert "Version: 16.1-1" in (repo / "Packages").read_text()
    again = _build(tdxctl, place, "shim")["packages"][0]
    assert again["seconds"] == built["seconds"], "what is there is not built again"
    anew = _build(tdxctl, place, "shim", "--force")["packages"][0]
    assert anew["files"] == built["files"], "the same sources make the same packages"


def test_an_interrupted_build_goes_on(tdxctl: Tdxctl, tmp_path: Path) -> None:
    first = _build(tdxctl, tmp_path, "shim", "--until", "unpack")["packages"][0]
    assert (first["files"], first["resumed"]) == ([], False)
    rest = _build(tdxctl, tmp_path, "shim")["packages"][0]
    assert len(rest["files"]) == 2
    assert rest["resumed"] is True


def test_kernel_fragments_come_out(tdxctl: Tdxctl, place: Path) -> None:
    for name in ("host-kernel", "guest-kernel"):
        argv = ("build", "package", name, "--until", "configure", "--output", str(place))
        tdxctl.json(*argv, timeout=BUILD_SECONDS)


@pytest.fixture(scope="module")
def tdvf(tdxctl: Tdxctl, place: Path) -> Path:
    """The repository with the packages of the TDVF."""
    _build(tdxctl, place, "tdvf")
    return place / "host_repo"


def test_apt_installs_it_in_a_root_of_its_own_by_the_signature(tdvf: Path, tmp_path: Path) -> None:
    root, mirror = tmp_path / "root", configured_mirror("debian") or DEBIAN_MIRROR
    ours = f"deb [signed-by={tdvf}/tdxstack.gpg] copy:{tdvf} ./"
    _output(
        "mmdebstrap", "--mode=root", "--variant=apt", '--aptopt=APT::Sandbox::User "root"',
        "--include=ovmf-inteltdx", "trixie", str(root), f"deb {mirror} trixie main", ours,
    )  # fmt: skip
    assert (root / "usr/share/ovmf/OVMF.inteltdx.fd").stat().st_size == 4 << 20
    assert "Package: ovmf-inteltdx\n" in (root / "var/lib/dpkg/status").read_text()


@pytest.mark.skipif(shutil.which("dnf") is None, reason="needs dnf")
def test_dnf_installs_it_in_a_root_of_its_own_by_the_signature(tdvf: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    argv = dnf_words(tmp_path, tdvf, root)
    _output(*argv, "install", "ovmf-inteltdx")
    assert (root / "usr/share/ovmf/OVMF.inteltdx.fd").stat().st_size == 4 << 20


def test_tdvf_is_built_measured_and_boots(
    tdxctl: Tdxctl, tdvf: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    (package,) = tdvf.glob("ovmf-inteltdx_*.deb")
    _output("dpkg-deb", "--extract", str(package), str(tmp_path))
    firmware = tmp_path / "usr/share/ovmf/OVMF.inteltdx.fd"
    quickstart = request.getfixturevalue("quickstart")  # not while the firmware is built: it takes a processor
    shown = json.loads(tdxctl.ok("measure", "mrtd", str(firmware), "--json"))
    assert len(shown["single_pass"]) == 96
    assert {section["type"] for section in shown["sections"]} == {"BFV", "CFV", "TD_HOB", "TEMP_MEM"}
    td = quickstart["td"]
    try:
        tdxctl.ok(
            "td", "create", "built-tdvf", "--image", td["image"], "--kernel", td["kernel"], "--initrd", td["initrd"],
            "--cmdline", td["cmdline"], "--memory", "768M", "--firmware", str(firmware),
        )  # fmt: skip
        tdxctl.ok("td", "start", "built-tdvf", "--wait", "--timeout", "400", timeout=460)
        report = json.loads(tdxctl.ok("td", "exec", "built-tdvf", "--", "tdxctl", "guest", "report", "--json"))
        assert any(shown[way] in report["report"] for way in ("single_pass", "two_pass"))
    finally:
        tdxctl("td", "delete", "built-tdvf", "--yes")

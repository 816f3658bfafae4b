from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from dnf_root import dnf_words
from tdxstack.cli.main import main
from tdxstack.deploy import repository

pytestmark = pytest.mark.processes
needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")


def _deb(directory: Path, name: str, version: str) -> Path:
    tree = directory / f"{name}-tree"
    (tree / "DEBIAN").mkdir(parents=True)
    fields = (
        f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: a <a@example>\nDescription: a test\n"
    )
    (tree / "DEBIAN/control").write_text(fields)
    (tree / "usr/share/tdx").mkdir(parents=True)
    (tree / "usr/share/tdx" / name).write_text("content\n")
    path = directory / "repo" / f"{name}_{version}_all.deb"
    path.parent.mkdir(exist_ok=True)
    subprocess.run(
        ["dpkg-deb", "--build", "--root-owner-group", str(tree), str(path)], check=True, capture_output=True
    )
    return path


def _apt(root: Path, source: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """apt-get in a root of its own, which knows of one repository only."""
    for name in ("state/lists/partial", "cache/archives/partial", "etc/preferences.d", "etc/apt.conf.d"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "status").touch()
    (root / "etc/sources.list").write_text(source)
    options = {
        "Dir::Etc": f"{root}/etc/",
        "Dir::Etc::sourceparts": "-",
        "Dir::State": f"{root}/state/",
        "Dir::State::status": f"{root}/status",
        "Dir::Cache": f"{root}/cache/",
        "Debug::NoLocking": "1",
        "APT::Sandbox::User": "root",
    }
    words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    return subprocess.run([*argv[:1], *words, *argv[1:]], capture_output=True, text=True, check=False)


@needs_dpkg
def test_apt_reads_the_repository(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repo = _deb(tmp_path, "tdx-thing", "1.0").parent
    _deb(tmp_path, "tdx-other", "2.0")
    assert main(["build", "repository", str(repo), "--dry-run"]) == 0
    assert not (repo / "Packages").exists()
    assert main(["build", "repository", str(repo)]) == 0
    assert "not signed" in capsys.readouterr().err
    if shutil.which("apt-get") is None:
        pytest.skip("needs apt-get")
    source = f"deb [trusted=yes] file:{repo} ./\n"
    updated = _apt(tmp_path / "apt", source, "apt-get", "update")
    assert updated.returncode == 0, updated.stderr
    shown = _apt(tmp_path / "apt", source, "apt-cache", "policy", "tdx-thing")
    assert "Candidate: 1.0" in shown.stdout
    planned = _apt(tmp_path / "apt", source, "apt-get", "install", "--simulate", "tdx-other")
    assert "Inst tdx-other (2.0" in planned.stdout


@needs_dpkg
def test_the_same_packages_make_the_same_index(tmp_path: Path) -> None:
    repo = _deb(tmp_path, "tdx-thing", "1.0").parent
    repository.make(repo)
    first = {path.name: path.read_bytes() for path in repo.iterdir()}
    repository.make(repo)
    assert {path.name: path.read_bytes() for path in repo.iterdir()} == first


@needs_dpkg
@pytest.mark.skipif(shutil.which("gpg") is None, reason="needs gpg")
def test_a_signed_repository_and_one_that_was_changed(tmp_path: Path) -> None:
    repo = _deb(tmp_path, "tdx-thing", "1.0").parent
    home = tmp_path / "gnupg"
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--passphrase", ""]
    key = "repo@example"
    subprocess.run([*gpg, "--quick-generate-key", key, "ed25519", "sign", "never"], check=True, capture_output=True)
    try:
        assert repository.make(repo, sign=key, gnupg=home)[-1] == repository.KEYRING
    finally:
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)
    if shutil.which("apt-get") is None:
        pytest.skip("needs apt-get")
    source = f"deb [signed-by={repo}/{repository.KEYRING}] file:{repo} ./\n"
    assert _apt(tmp_path / "apt", source, "apt-get", "update").returncode == 0
    changed = (repo / "InRelease").read_text().replace("Origin: tdxstack", "Origin: somebody")
    (repo / "InRelease").write_text(changed)
    refused = _apt(tmp_path / "apt2", source, "apt-get", "update")
    assert "BADSIG" in refused.stderr + refused.stdout or refused.returncode != 0


def test_a_directory_without_packages(tmp_path: Path) -> None:
    assert main(["build", "repository", str(tmp_path)]) == 2


needs_rpm = pytest.mark.skipif(
    shutil.which("rpmbuild") is None or shutil.which("createrepo_c") is None, reason="needs rpmbuild and createrepo_c"
)


@needs_rpm
@pytest.mark.skipif(shutil.which("gpg") is None, reason="needs gpg")
def test_a_repository_for_dnf_is_signed_by_a_key_of_this_machine(tmp_path: Path) -> None:
    fields = "Name: tdx-thing\nVersion: 1.0\nRelease: 1\nSummary: s\nLicense: MIT\nBuildArch: noarch\n"
    spec = f"{fields}%description\nd\n%files\n"
    (tmp_path / "x.spec").write_text(spec)
    repo = tmp_path / "repo"
    defines = {"_rpmdir": str(repo), "_topdir": str(tmp_path / "top"), "_rpmfilename": "%{NAME}-%{VERSION}.rpm"}
    words = [word for key, value in defines.items() for word in ("--define", f"{key} {value}")]
    subprocess.run(["rpmbuild", "-bb", *words, str(tmp_path / "x.spec")], check=True, capture_output=True)
    key, home = repository.own_key()
    assert repository.own_key() == (key, home)
    try:
        written = repository.make(repo, sign=key, gnupg=home)
        assert set(written) == {"repodata/repomd.xml", "repodata/repomd.xml.asc", "tdxstack.gpg", "tdxstack.asc"}
        index = (repo / "repodata/repomd.xml").read_bytes()
        verify = ["gpgv", "--keyring", str(repo / repository.KEYRING), str(repo / "repodata/repomd.xml.asc")]
        assert (
            subprocess.run([*verify, str(repo / "repodata/repomd.xml")], capture_output=True, check=False).returncode
            == 0
        )
        if shutil.which("dnf"):
            argv = dnf_words(tmp_path, repo, tmp_path / "root")
            assert "tdx-thing" in subprocess.run([*argv, "list"], check=True, capture_output=True, text=True).stdout
        (repo / "repodata/repomd.xml").write_bytes(index.replace(b"<revision>", b"<revision>1"))
        if shutil.which("dnf"):
            refused = subprocess.run([*argv, "--refresh", "list"], capture_output=True, text=True, check=False)
            assert refused.returncode != 0
            assert "repomd.xml GPG signature verification error" in refused.stderr
        assert (
            subprocess.run([*verify, str(repo / "repodata/repomd.xml")], capture_output=True, check=False).returncode
            != 0
        )
        repository.make(repo, sign=key, gnupg=home)
        assert (repo / "repodata/repomd.xml").read_bytes() == index
    finally:
        for one in (home, *tmp_path.rglob("pubring")):  # dnf has its own
            subprocess.run(["gpgconf", "--homedir", str(one), "--kill", "all"], check=False)

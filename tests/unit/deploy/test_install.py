from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from host_trees import dpkg
from tdxstack.cli.main import main
from tdxstack.deploy import step
from tdxstack.deploy.install import GROUPS, Planner, Wanted
from tdxstack.errors import PlatformMissing, ProcessFailed

UBUNTU = {
    "etc/os-release": b'ID=ubuntu\nID_LIKE=debian\nVERSION_ID="25.10"\n',
    "etc/default/grub": b'GRUB_DEFAULT=0\nGRUB_CMDLINE_LINUX="crashkernel=1G"\n',
    "etc/group": b"kvm:x:105:\nlibvirt:x:106:\n",
    "etc/apparmor.d/abstractions/libvirt-qemu": b"  /dev/kvm rw,\n",
    "etc/sgx_default_qcnl.conf": b'{\n  // the server\n  "pccs_url": "https://pccs/sgx/certification/v3/"\n}\n',
    "var/lib/dpkg/status": dpkg({"swtpm": "0.7"}),
}
FEDORA = {
    "etc/os-release": b"ID=fedora\nVERSION_ID=43\n",
    "etc/default/grub": b'GRUB_CMDLINE_LINUX="rhgb quiet"\n',
    "etc/kernel/cmdline": b"root=UUID=1 ro\n",
    "boot/loader/entries/abc-6.17.4-200.fc43.x86_64.conf": b"title Fedora\nversion 6.17.4\noptions root=UUID=1 ro\n",
    "boot/grub2/grubenv": b"# GRUB Environment Block\nsaved_entry=old\n".ljust(1024, b"#"),
    ".tdxstack/rpm-packages": b"qemu-kvm\t10.1.0\n",
}
DEBIAN = UBUNTU | {
    "etc/os-release": b'ID=debian\nVERSION_ID="13"\n',
    "etc/default/grub": b"GRUB_TIMEOUT=5\nGRUB_CMDLINE_LINUX_DEFAULT=quiet\nGRUB_CMDLINE_LINUX=''\n",
}
#: RHEL 9 and its rebuilds: entries that take their options from GRUB's environment block.
RHEL = FEDORA | {
    "etc/os-release": b'ID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.6"\n',
    "boot/loader/entries/abc-6.17.4-200.fc43.x86_64.conf": b"title Rocky\noptions $kernelopts $tuned_params\n",
    "boot/grub2/grubenv": b"# GRUB Environment Block\nkernelopts=root=UUID=1 ro\n".ljust(1024, b"#"),
}


def _tree(root: Path, files: dict[str, bytes]) -> Path:
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


def _content(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture
def ubuntu(tmp_path: Path) -> Path:
    return _tree(tmp_path / "ubuntu", UBUNTU)


@pytest.fixture
def fedora(tmp_path: Path) -> Path:
    return _tree(tmp_path / "fedora", FEDORA)


def test_without_yes_nothing_changes(ubuntu: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = _content(ubuntu)
    assert main(["host", "install", "--root", str(ubuntu)]) == 0
    shown = capsys.readouterr()
    assert _content(ubuntu) == before
    assert '+GRUB_CMDLINE_LINUX="crashkernel=1G kvm_intel.tdx=1 nohibernate numa_balancing=disable"' in shown.out
    assert "apt-get install --yes" in shown.out
    assert "swtpm" not in shown.out.split("apt-get install", 1)[1].splitlines()[0]
    assert "give --yes" in shown.err


def test_a_debian_host(ubuntu: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["host", "install", "--root", str(ubuntu), "--user", "alice", "--yes"]
    assert main(argv) == 0
    said = capsys.readouterr().err
    for command in ("update-grub", "usermod --append --groups kvm alice", "systemctl enable --now qgsd.service"):
        assert f"not run in a tree: {command}" in said
    assert b"kvm_intel.tdx=1 nohibernate" in (ubuntu / "etc/default/grub").read_bytes()
    assert (ubuntu / "etc/modprobe.d/tdxstack.conf").read_text() == "options kvm_intel tdx=1\n"
    assert "qgs.socket" in (ubuntu / "etc/apparmor.d/local/abstractions/libvirt-qemu").read_text()
    qcnl = (ubuntu / "etc/sgx_default_qcnl.conf").read_text()
    assert (
        "// the server" in qcnl
        and "localhost:8081/sgx/certification/v4/" in qcnl
        and '"use_secure_cert": false' in qcnl
    )


def test_a_second_run_changes_no_file(ubuntu: Path) -> None:
    assert main(["host", "install", "--root", str(ubuntu), "--yes"]) == 0
    before = _content(ubuntu)
    steps = Planner(ubuntu, Wanted()).steps()
    assert [one for one in steps if isinstance(one, step.FileStep)] == []
    assert main(["host", "install", "--root", str(ubuntu), "--yes"]) == 0
    after = _content(ubuntu)
    assert {path: data for path, data in after.items() if not path.endswith("install.json")} == {
        path: data for path, data in before.items() if not path.endswith("install.json")
    }


def test_uninstall_puts_everything_back(ubuntu: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = _content(ubuntu)
    main(["host", "install", "--root", str(ubuntu), "--yes"])
    main(["host", "install", "--root", str(ubuntu), "--yes"])
    assert main(["host", "uninstall", "--root", str(ubuntu)]) == 0
    assert _content(ubuntu) != before
    assert main(["host", "uninstall", "--root", str(ubuntu), "--yes"]) == 0
    assert _content(ubuntu) == before
    assert "not run in a tree: apt-get remove" in capsys.readouterr().err
    assert main(["host", "uninstall", "--root", str(ubuntu), "--yes"]) == 0
    assert "nothing to do" in capsys.readouterr().err


def test_uninstall_leaves_no_directory_of_its_own(ubuntu: Path) -> None:
    before = sorted(path.relative_to(ubuntu) for path in ubuntu.rglob("*"))
    main(["host", "install", "--root", str(ubuntu), "--yes"])
    main(["host", "install", "--root", str(ubuntu), "--yes"])
    assert main(["host", "uninstall", "--root", str(ubuntu), "--yes"]) == 0
    assert sorted(path.relative_to(ubuntu) for path in ubuntu.rglob("*")) == before


def test_a_directory_that_somebody_filled_since_stays(ubuntu: Path) -> None:
    main(["host", "install", "--root", str(ubuntu), "--yes"])
    (ubuntu / "etc/modules-load.d/other.conf").write_text("other\n")
    assert main(["host", "uninstall", "--root", str(ubuntu), "--yes"]) == 0
    assert (ubuntu / "etc/modules-load.d/other.conf").read_text() == "other\n"
    assert not (ubuntu / "etc/modprobe.d").exists()


def test_a_file_changed_since_is_left_alone(ubuntu: Path) -> None:
    main(["host", "install", "--root", str(ubuntu), "--yes"])
    (ubuntu / "etc/default/grub").write_text("GRUB_TIMEOUT=9\n")
    main(["host", "uninstall", "--root", str(ubuntu), "--yes"])
    assert (ubuntu / "etc/default/grub").read_text() == "GRUB_TIMEOUT=9\n"
    assert not (ubuntu / "etc/modprobe.d/tdxstack.conf").exists()


def test_a_host_with_bls(fedora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = _content(fedora)
    kernel = "6.17.4-200.fc43.x86_64"
    assert main(["host", "install", "--root", str(fedora), "--kernel", kernel, "--yes"]) == 0
    entry = (fedora / f"boot/loader/entries/abc-{kernel}.conf").read_text()
    assert "options root=UUID=1 ro kvm_intel.tdx=1 nohibernate numa_balancing=disable\n" in entry
    assert b"saved_entry=abc-6.17.4-200.fc43.x86_64\n" in (fedora / "boot/grub2/grubenv").read_bytes()
    assert (fedora / "etc/kernel/cmdline").read_text().startswith("root=UUID=1 ro kvm_intel.tdx=1")
    said = capsys.readouterr().err
    assert "dnf install --assumeyes" in said and "qemu-kvm" not in said.split("dnf install", 1)[1].splitlines()[0]
    assert main(["host", "uninstall", "--root", str(fedora), "--yes"]) == 0
    assert _content(fedora) == before


@pytest.mark.parametrize(
    ("files", "where", "line"),
    [
        (DEBIAN, "etc/default/grub", 'GRUB_CMDLINE_LINUX="kvm_intel.tdx=1 nohibernate numa_balancing=disable"'),
        (
            RHEL,
            "boot/loader/entries/abc-6.17.4-200.fc43.x86_64.conf",
            "options $kernelopts $tuned_params kvm_intel.tdx=1 nohibernate numa_balancing=disable",
        ),
    ],
    ids=["debian", "rhel"],
)
def test_a_plan_is_carried_out_once_and_taken_back(
    files: dict[str, bytes], where: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = _tree(tmp_path / "root", files)
    before = _content(root)
    argv = ["host", "install", "--root", str(root)]
    assert main([*argv, "--dry-run"]) == 0
    assert f"+{line}" in capsys.readouterr().out
    assert _content(root) == before
    assert main([*argv, "--yes"]) == 0
    assert line in (root / where).read_text().splitlines()
    kept = [path for path in (root / "var/lib/tdxstack/backup").rglob("*") if path.is_file()]
    assert before[where] in [path.read_bytes() for path in kept]
    assert [one for one in Planner(root, Wanted()).steps() if isinstance(one, step.FileStep)] == []
    assert main(["host", "uninstall", "--root", str(root), "--yes"]) == 0
    assert _content(root) == before


def test_a_repository_of_the_1_5_stack(ubuntu: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["host", "install", "--root", str(ubuntu), "--stack", "1.5", "--repository", "/srv/tdx-host", "--yes"]
    assert main(argv) == 0
    assert (
        ubuntu / "etc/apt/sources.list.d/tdxstack.list"
    ).read_text() == "deb [trusted=yes] file:/srv/tdx-host ./\n"
    assert "Pin-Priority: 4000" in (ubuntu / "etc/apt/preferences.d/tdxstack").read_text()
    assert "intel-mvp-tdx-kernel" in capsys.readouterr().err
    assert b"kvm_intel.tdx" not in (ubuntu / "etc/default/grub").read_bytes()


def test_parts(ubuntu: Path) -> None:
    assert {one.group for one in Planner(ubuntu, Wanted(groups=frozenset(("kernel",)))).steps()} == {"kernel"}
    assert main(["host", "install", "--root", str(ubuntu), "--skip", "attestation", "--json"]) == 0
    assert set(GROUPS) >= {one.group for one in Planner(ubuntu, Wanted()).steps()}


def test_a_step_that_fails_leaves_a_record_that_undoes_what_was_done(ubuntu: Path) -> None:
    before = _content(ubuntu)

    def run(argv: Sequence[str]) -> None:
        if argv[0] == "update-grub":
            raise ProcessFailed(argv, 1, "no space left on device")

    steps = Planner(ubuntu, Wanted(groups=frozenset(("kernel", "modules")))).steps()
    with pytest.raises(ProcessFailed):
        step.apply(ubuntu, steps, run, lambda text: None)
    assert _content(ubuntu) != before
    step.undo(ubuntu, step.undo_plan(ubuntu), lambda argv: None, lambda text: None)
    assert _content(ubuntu) == before


def test_a_kernel_that_has_no_entry(ubuntu: Path) -> None:
    with pytest.raises(PlatformMissing):
        Planner(ubuntu, Wanted(kernel="6.99")).steps()


def test_another_distribution(tmp_path: Path) -> None:
    _tree(tmp_path, {"etc/os-release": b"ID=arch\n"})
    assert main(["host", "install", "--root", str(tmp_path)]) == 4


def test_a_damaged_record_is_told(ubuntu: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _tree(ubuntu, {"var/lib/tdxstack/install.json": b"[]"})
    assert main(["host", "uninstall", "--root", str(ubuntu)]) == 1
    assert "move it away" in capsys.readouterr().err


def test_qcnl(ubuntu: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = ["--root", str(ubuntu)]
    assert main(["host", "qcnl", *root, "--check"]) == 1
    assert "version 4" in capsys.readouterr().out
    edit = ["--set", "pccs_url=https://pccs.example/sgx/certification/v4/", "--set", "retry_times=3"]
    assert main(["host", "qcnl", *root, *edit, "--dry-run"]) == 0
    assert (ubuntu / "etc/sgx_default_qcnl.conf").read_bytes() == UBUNTU["etc/sgx_default_qcnl.conf"]
    capsys.readouterr()
    assert main(["host", "qcnl", *root, *edit, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)["values"]
    assert values == {"pccs_url": "https://pccs.example/sgx/certification/v4/", "retry_times": 3}
    assert (ubuntu / "etc/sgx_default_qcnl.conf.old").read_bytes() == UBUNTU["etc/sgx_default_qcnl.conf"]
    assert main(["host", "qcnl", *root, "--check"]) == 0


@pytest.mark.parametrize(
    "setting",
    [
        "PCCS_URL=x",
        "use_secure_cert=no",
        "use_secure_cert=1",
        "retry_times=many",
        "retry_times=1.5",
        "retry_times=-1",
        "retry_times=true",
        "retry_times=99999999999",
        "pck_cache_expire_hours=NaN",
        "custom_request_options=[]",
        "custom_request_options={",
        "pccs_url",
    ],
)
def test_qcnl_refuses_what_the_library_ignores(ubuntu: Path, setting: str) -> None:
    assert main(["host", "qcnl", "--root", str(ubuntu), "--set", setting]) == 2


def test_a_repository_of_ones_own_packages(ubuntu: Path, fedora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for root, names in (
        (ubuntu, ("tdxstack-qemu_11.1.3-1_amd64.deb", "linux-image-tdx-host_7.1.8-1_amd64.deb", "tdxstack.gpg")),
        (fedora, ("tdxstack-qemu-11.1.3-1.x86_64.rpm", "other-1.0-1.noarch.rpm", "tdxstack.asc")),
    ):
        for name in names:
            (root / "srv/tdx-host").mkdir(parents=True, exist_ok=True)
            (root / "srv/tdx-host" / name).write_bytes(b"")
        argv = ["host", "install", "--root", str(root), "--repository", "/srv/tdx-host"]
        assert main([*argv, "--only", "repository", "--only", "packages", "--dry-run"]) == 0
        shown = capsys.readouterr().out
        line = next(line for line in shown.splitlines() if " install --" in line).replace(":", " ")
        assert "tdxstack-qemu" in line.split()
        assert "qemu-system-x86" not in line.split()
        assert ("linux-image-tdx-host" in line) is (root == ubuntu)
        assert ("signed-by=" in shown) is (root == ubuntu)
        assert ("repo_gpgcheck=1" in shown) is (root == fedora)


def test_the_key_of_a_repository_is_put_where_apt_can_read_it(ubuntu: Path) -> None:
    repo = ubuntu / "root/tdx-host"
    repo.mkdir(parents=True)
    (repo / "tdxstack.asc").write_text("-----BEGIN PGP PUBLIC KEY BLOCK-----\n")
    before = _content(ubuntu)
    steps = Planner(ubuntu, Wanted(repository="/root/tdx-host", groups=frozenset(("repository",)))).steps()
    files = {one.path: one.content for one in steps if isinstance(one, step.FileStep)}
    assert files["/etc/apt/keyrings/tdxstack.asc"] == "-----BEGIN PGP PUBLIC KEY BLOCK-----\n"
    listed = files["/etc/apt/sources.list.d/tdxstack.list"]
    assert listed == "deb [signed-by=/etc/apt/keyrings/tdxstack.asc] file:/root/tdx-host ./\n"
    assert _content(ubuntu) == before


def test_a_fifo_in_a_files_place_is_not_waited_for(ubuntu: Path) -> None:
    for name in ("etc/default/grub", "etc/sgx_default_qcnl.conf"):
        (ubuntu / name).unlink()
        os.mkfifo(ubuntu / name)
    assert main(["host", "install", "--root", str(ubuntu), "--dry-run"]) in (0, 1)

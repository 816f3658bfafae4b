from __future__ import annotations

import json
import shutil
from pathlib import Path
from uuid import UUID

import pytest

from firmware_file import compressed, ffs_file, volume
from host_trees import HOSTS
from tdxstack.cli.main import main
from tdxstack.platform.linux_open_host import open_host
from tdxstack.preflight import redaction, report, tree
from tdxstack.preflight.capture import collect
from tdxstack.preflight.firmware_files import TDVF_METADATA_GUID
from tdxstack.preflight.host import Host
from tdxstack.preflight.model import Result
from tdxstack.wire.tdvf import TD_TCG2_DXE_GUID


def _outcomes(root: Path) -> dict[str, str]:
    return {one.check.id: one.outcome.value for one in report.everything(tree.check_host(Host(open_host(root))))}


def _result(root: Path, name: str) -> Result:
    results = tree.check_host(Host(open_host(root)))
    return next(one for one in report.everything(results) if one.check.id == name)


@pytest.mark.parametrize("name", ["good-upstream", "good-1.5", "problem-02-old-module", "problem-12-rtmr-mismatch"])
def test_a_captured_tree_gives_the_same_outcomes(name: str, tmp_path: Path) -> None:
    assert main(["host", "capture", "--root", str(HOSTS / name), str(tmp_path / "tree")]) == 0
    assert _outcomes(tmp_path / "tree") == _outcomes(HOSTS / name)


def test_secrets_stay_behind(tmp_path: Path) -> None:
    root = tmp_path / "host"
    shutil.copytree(HOSTS / "good-upstream", root)
    (root / "proc/cmdline").write_text('ro luks.password=hunter2 api_key="two words" nohibernate\n')
    pccs = root / "opt/intel/sgx-dcap-pccs/config/default.json"
    pccs.write_text(json.dumps(json.loads(pccs.read_text()) | {"ApiKey": "hunter2", "AdminTokenHash": "hunter2"}))
    with (root / ".tdxstack/dmesg").open("a") as log:
        log.write("[ 9.0] tdx: device 52:54:00:12:34:56\n[ 9.1] eth0: hunter2\n[ 9.2] kvm: token=hunter2\n")
    plan = collect(open_host(root))
    everything = b"\n".join(plan.values())
    for secret in (b"hunter2", b"two words", b"SERIAL", b"ASSET", b"52:54:00:12:34:56"):
        assert secret not in everything
    assert b"nohibernate" in plan["/proc/cmdline"]


@pytest.mark.parametrize(
    "text",
    [
        "ro systemd.set_credential=root.password:hunter2 quiet",
        "ro rootflags=username=me,hunter2pass=hunter2 quiet",
        "ro netroot=iscsi:me:hunter2@192.0.2.1::3260::iqn quiet",
        'ro luks-key=hunter2 rd.iscsi.secret="hunter2 too" quiet',
        "ro BOOTIF=01-52-54-00-12-34-56 ifname=eth0:52:54:00:12:34:56 quiet",
        "ro proxy=http://me:hunter2@proxy.example:3128/ quiet",
    ],
)
def test_a_command_line_keeps_no_secret_in_any_form(text: str) -> None:
    kept = redaction.line(text)
    assert "hunter2" not in kept
    assert "52:54:00" not in kept
    assert "52-54-00" not in kept
    assert kept.split()[0] == "ro"
    assert kept.split()[-1] == "quiet"


def test_the_settings_of_qemu_keep_no_password_and_the_check_still_sees_its_user(tmp_path: Path) -> None:
    root = tmp_path / "host"
    shutil.copytree(HOSTS / "good-upstream", root)
    (root / "etc/libvirt/qemu.conf").write_text(
        'vnc_password = "hunter2"\n#spice_password = "hunter2"\nuser = "tdx"\nnbd_tls_secret = "hunter2"\n'
    )
    (root / "etc/group").write_text("root:x:0:\nkvm:x:105:tdx\nstaff:x:50:alice,hunter2\n")
    before = _outcomes(root)
    assert main(["host", "capture", "--root", str(root), str(tmp_path / "tree")]) == 0
    assert all(b"hunter2" not in path.read_bytes() for path in (tmp_path / "tree").rglob("*") if path.is_file())
    assert _outcomes(tmp_path / "tree") == before
    assert before["confinement.qemu_user"] == "pass"


QCNL_WITH_SECRETS = """{
  // the old token was hunter2
  "pccs_url": "https://me:hunter2@pccs.example:8081/sgx/certification/v4/?subscription-key=hunter2",
  "use_secure_cert": true, /* hunter2 */
  "retry_times": 6,
  "custom_request_options": {"get_cert": {"headers": {"Authorization": "hunter2"}, "params": {"v": "hunter2"}}}
}
"""


@pytest.mark.parametrize(
    "text",
    [
        QCNL_WITH_SECRETS,
        QCNL_WITH_SECRETS.replace("6,", "6"),
        QCNL_WITH_SECRETS.replace("retry_times", "no_such_key"),
        QCNL_WITH_SECRETS.replace('"use_secure_cert": true', '"use_secure_cert": "hunter2"'),
        QCNL_WITH_SECRETS.replace('"hunter2"}}}', '"hunter2'),
        QCNL_WITH_SECRETS.replace("6", "hunter2"),
    ],
    ids=["sound", "comma", "unknown key", "wrong type", "unterminated", "bare word"],
)
def test_the_quote_providers_settings_keep_no_header_and_fail_as_before(text: str, tmp_path: Path) -> None:
    root = tmp_path / "host"
    shutil.copytree(HOSTS / "good-upstream", root)
    (root / "etc/sgx_default_qcnl.conf").write_text(text)
    before = _outcomes(root)
    assert main(["host", "capture", "--root", str(root), str(tmp_path / "tree")]) == 0
    kept = (tmp_path / "tree/etc/sgx_default_qcnl.conf").read_text()
    assert "hunter2" not in kept
    assert "https://pccs.example:8081/sgx/certification/v4/" in kept
    after = _outcomes(tmp_path / "tree")
    assert {name: outcome for name, outcome in after.items() if "qcnl" in name} == {
        name: outcome for name, outcome in before.items() if "qcnl" in name
    }


def test_a_trusted_certificate_of_pccs_stays_trusted_in_a_capture(tmp_path: Path) -> None:
    root = tmp_path / "host"
    shutil.copytree(HOSTS / "problem-08-pccs-tls", root)
    certificate = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
    for path in ("opt/intel/sgx-dcap-pccs/ssl_key/file.crt", "etc/ssl/certs/ca-certificates.crt"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(certificate)
    (root / "opt/intel/sgx-dcap-pccs/ssl_key/private.pem").write_text("hunter2")
    assert _outcomes(root)["attestation.qcnl_tls"] == "pass"
    assert main(["host", "capture", "--root", str(root), str(tmp_path / "tree")]) == 0
    assert _outcomes(tmp_path / "tree")["attestation.qcnl_tls"] == "pass"
    assert not list((tmp_path / "tree").rglob("private.pem"))


def _domain(loader: str) -> str:
    return f"<domain type='kvm'>\n  <os>\n    {loader}\n  </os>\n  <launchSecurity type='tdx'/>\n</domain>\n"


MEASURING = compressed(volume(ffs_file(TD_TCG2_DXE_GUID, b"driver"))) + TDVF_METADATA_GUID
DAMAGED = MEASURING[:40] + b"\xff" * 60 + MEASURING[100:]
SILENT = compressed(volume(ffs_file(UUID(int=3), b"driver"))) + TDVF_METADATA_GUID


@pytest.mark.parametrize(
    ("loader", "firmware", "outcome", "words"),
    [
        ("<loader type='rom' readonly='yes'>/opt/tdvf/OVMF.fd</loader>", MEASURING, "pass", "acts like edk2"),
        ("<loader>/opt/tdvf/OVMF.fd</loader>", SILENT, "fail", "measures nothing"),
        ("<loader>/opt/tdvf/OVMF.fd</loader>", b"no TDVF at all", "fail", "no TDX metadata"),
        ("<loader>/opt/tdvf/OVMF.fd</loader>", None, "fail", "is absent"),
        ("<loader readonly='yes' type='pflash'>/opt/tdvf/OVMF.fd</loader>", MEASURING, "fail", "flash"),
        ("<nvram/>", None, "pass", "no TD names"),
    ],
    ids=["measures", "silent", "no TDVF", "absent", "flash", "not named"],
)
def test_the_firmware_that_a_td_names(
    loader: str, firmware: bytes | None, outcome: str, words: str, tmp_path: Path
) -> None:
    root = tmp_path / "host"
    shutil.copytree(HOSTS / "good-upstream", root)
    (root / "etc/libvirt/qemu").mkdir(parents=True)
    (root / "etc/libvirt/qemu/td1.xml").write_text(_domain(loader))
    if firmware is not None:
        (root / "opt/tdvf").mkdir(parents=True)
        (root / "opt/tdvf/OVMF.fd").write_bytes(firmware)
    found = _result(root, "libvirt.loader")
    assert (found.outcome.value, words in found.finding.evidence) == (outcome, True), found.finding.evidence
    assert main(["host", "capture", "--root", str(root), str(tmp_path / "tree")]) == 0
    assert _result(tmp_path / "tree", "libvirt.loader").finding == found.finding


@pytest.mark.parametrize(
    ("firmware", "outcome"),
    [(MEASURING, "pass"), (SILENT, "fail"), (TDVF_METADATA_GUID, "skip"), (TDVF_METADATA_GUID + DAMAGED, "skip")],
    ids=["measures", "silent", "unreadable", "damaged"],
)
def test_whether_the_installed_firmware_measures(firmware: bytes, outcome: str, tmp_path: Path) -> None:
    root = tmp_path / "host"
    shutil.copytree(HOSTS / "good-upstream", root)
    (root / "usr/share/ovmf/OVMF.inteltdx.fd").write_bytes(firmware)
    found = _result(root, "ovmf.measures")
    assert found.outcome.value == outcome, found.finding.evidence
    assert main(["host", "capture", "--root", str(root), str(tmp_path / "tree")]) == 0
    assert _result(tmp_path / "tree", "ovmf.measures").finding == found.finding


@pytest.mark.parametrize("ours", [True, False])
def test_firmware_behind_a_link_is_compared_with_its_package(ours: bool, tmp_path: Path) -> None:
    """Debian's /usr/share/qemu/OVMF.fd is a link; the package lists the file that it leads to."""
    root = tmp_path / "host"
    shutil.copytree(HOSTS / "good-upstream", root)
    (root / "usr/share/ovmf/OVMF.inteltdx.fd").rename(root / "usr/share/ovmf/OVMF.fd")
    (root / "usr/share/qemu").mkdir()
    (root / "usr/share/qemu/OVMF.fd").symlink_to("../ovmf/OVMF.fd")
    sums = root / "var/lib/dpkg/info/ovmf.md5sums"
    digest = sums.read_text().split()[0]
    sums.write_text(f"{digest if ours else '0' * 32}  usr/share/ovmf/OVMF.fd\n")
    found = _result(root, "ovmf.unmodified")
    assert found.outcome.value == ("pass" if ours else "fail")
    assert "/usr/share/ovmf/OVMF.fd: MD5" in found.finding.evidence
    assert main(["host", "capture", "--root", str(root), str(tmp_path / "tree")]) == 0
    assert _result(tmp_path / "tree", "ovmf.unmodified").finding == found.finding


def test_an_existing_directory_is_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["host", "capture", "--root", str(HOSTS / "good-upstream"), str(tmp_path)]) == 1
    assert "it exists" in capsys.readouterr().err


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["host", "capture", "--dry-run", "--root", str(HOSTS / "good-upstream"), str(tmp_path / "new")]) == 0
    assert not (tmp_path / "new").exists()
    assert "/proc/cpuinfo" in capsys.readouterr().err

from __future__ import annotations

import json
from pathlib import Path

import pytest

from host_trees import HOSTS
from tdxstack.cli.main import main
from tdxstack.platform.linux_host_source import open_host
from tdxstack.preflight import report, tree
from tdxstack.preflight.capture import collect
from tdxstack.preflight.host import Host


def _outcomes(root: Path) -> dict[str, str]:
    return {one.check.id: one.outcome.value for one in report.everything(tree.check_host(Host(open_host(root))))}


@pytest.mark.parametrize("name", ["good-upstream", "good-1.5", "problem-02-old-module", "problem-12-rtmr-mismatch"])
def test_a_captured_tree_gives_the_same_outcomes(name: str, tmp_path: Path) -> None:
    assert main(["host", "capture", "--root", str(HOSTS / name), str(tmp_path / "tree")]) == 0
    assert _outcomes(tmp_path / "tree") == _outcomes(HOSTS / name)


def test_secrets_stay_behind(tmp_path: Path) -> None:
    import shutil

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


def test_an_existing_directory_is_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["host", "capture", "--root", str(HOSTS / "good-upstream"), str(tmp_path)]) == 1
    assert "it exists" in capsys.readouterr().err


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["host", "capture", "--dry-run", "--root", str(HOSTS / "good-upstream"), str(tmp_path / "new")]) == 0
    assert not (tmp_path / "new").exists()
    assert "/proc/cpuinfo" in capsys.readouterr().err

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from host_trees import HOSTS
from tdxstack.deploy.bundle import bundle


def test_the_same_source_makes_the_same_bundle() -> None:
    assert bundle() == bundle()


@pytest.mark.processes
def test_the_bundle_runs_on_the_standard_library_alone(tmp_path: Path) -> None:
    path = tmp_path / "tdxctl.pyz"
    path.write_bytes(bundle())
    assert zipfile.is_zipfile(path)
    argv = [sys.executable, "-I", "-S", str(path), "host"]
    checked = subprocess.run(
        [*argv, "check", "--json", "--root", str(HOSTS / "good-upstream")], capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert json.loads(checked.stdout)["ok"]
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/os-release").write_text("ID=debian\n")
    planned = subprocess.run([*argv, "install", "--json", "--root", str(root)], capture_output=True, check=False)
    assert planned.returncode == 0, planned.stderr
    assert json.loads(planned.stdout)["steps"]
    log = subprocess.run(
        [*argv, "diagnose", "-"], input=b"vm-type TDX not supported by KVM\n", capture_output=True, check=False
    )
    assert log.returncode == 1, log.stderr


@pytest.mark.processes
def test_every_module_of_the_bundle_imports_with_the_standard_library_alone(tmp_path: Path) -> None:
    path = tmp_path / "tdxctl.pyz"
    path.write_bytes(bundle())
    names = [name for name in zipfile.ZipFile(path).namelist() if name.endswith(".py") and "__main__" not in name]
    modules = sorted(name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in names)
    program = f"import importlib, sys; sys.path.insert(0, {str(path)!r})\n"
    program += f"for name in {modules!r}: importlib.import_module(name)\n"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

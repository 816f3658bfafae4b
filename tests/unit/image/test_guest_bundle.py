"""The guest's zipapp: deterministic, and the standard library is all that it needs."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tdxstack.image.guest_bundle import bundle_sources, guest_bundle
from tdxstack.image.recipes import ASSETS


def test_same_sources_same_bytes() -> None:
    assert guest_bundle() == guest_bundle()


def test_content_is_the_guest_subset() -> None:
    names = zipfile.ZipFile(io.BytesIO(guest_bundle())).namelist()
    assert names[0] == "__main__.py"
    assert "tdxstack/wire/tdreport.py" in names
    assert "tdxstack/cli/main.py" in names
    assert not [name for name in names if "/vm/" in name or "/system/" in name or "/dcap/" in name]


def test_a_changed_source_changes_the_bundle(tmp_path: Path) -> None:
    (tmp_path / "errors.py").write_text("a = 1\n")
    before = guest_bundle(tmp_path)
    (tmp_path / "errors.py").write_text("a = 2\n")
    assert guest_bundle(tmp_path) != before
    assert [path.name for path in bundle_sources(tmp_path)] == ["errors.py"]


@pytest.mark.processes
@pytest.mark.parametrize("compiled", [False, True])
def test_it_runs_without_anything_installed(tmp_path: Path, compiled: bool) -> None:
    archive = tmp_path / "tdxctl.pyz"
    archive.write_bytes(guest_bundle())
    if compiled:
        subprocess.run([sys.executable, "-I", str(ASSETS / "scripts/compile.py"), str(archive)], check=True)
        assert "tdxstack/errors.pyc" in zipfile.ZipFile(archive).namelist()
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(archive), "--version"], capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("tdxctl "), done.stderr


@pytest.mark.processes
def test_every_module_imports_with_the_standard_library_alone(tmp_path: Path) -> None:
    archive = tmp_path / "tdxctl.pyz"
    archive.write_bytes(guest_bundle())
    names = [n for n in zipfile.ZipFile(archive).namelist() if n.startswith("tdxstack/") and "__main__" not in n]
    modules = sorted(n.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for n in names)
    program = f"import sys; sys.path.insert(0, {str(archive)!r})\nimport importlib\n"
    program += f"for name in {modules!r}: importlib.import_module(name)\n"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

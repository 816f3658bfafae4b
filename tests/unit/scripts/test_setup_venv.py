"""scripts/setup-venv.sh, against stand-ins for Python and uv."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "setup-venv.sh"

pytestmark = pytest.mark.processes


def program(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def run(folder: Path, python: Path) -> subprocess.CompletedProcess[str]:
    argv = ["sh", str(SCRIPT), str(folder / "venv"), str(python)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, cwd=folder)


def test_a_python_that_is_too_old(tmp_path: Path) -> None:
    done = run(tmp_path, program(tmp_path / "python", "exit 1"))
    assert done.returncode == 1
    assert "is not Python 3.11 or later" in done.stderr
    assert "next: install one" in done.stderr


@pytest.mark.parametrize(
    ("talk", "said", "step"),
    [
        ("client error (Connect): dns error: failed to lookup", "cannot be reached", "check the network"),
        ("Max retries exceeded with url", "cannot be reached", "check the network"),
        ("invalid peer certificate: UnknownIssuer", "certificate is not trusted", "add your proxy's root"),
        ("OSError: [Errno 28] No space left on device", "the disk is full", "free about 1 GB"),
        ("something nobody has seen", "could not be made", "read the lines above"),
    ],
)
def test_failure_names_the_cause_and_the_next_step(tmp_path: Path, talk: str, said: str, step: str) -> None:
    program(tmp_path / "venv/bin/python", f'case "$*" in *install*) echo "{talk}" >&2; exit 1 ;; esac')
    done = run(tmp_path, Path(sys.executable))
    assert done.returncode == 1
    assert talk in done.stderr
    assert said in done.stderr
    assert f"next: {step}" in done.stderr


def test_a_half_made_environment_is_made_anew(tmp_path: Path) -> None:
    program(tmp_path / "venv/bin/python", "exit 1")
    made = 'case "$*" in *"venv --clear"*) printf "#!/bin/sh\\n" >venv/bin/python;'
    uv = 'printf "#!/bin/sh\\necho uv \\$* >>called\\n" >venv/bin/uv; chmod 755 venv/bin/uv ;; esac'
    done = run(tmp_path, program(tmp_path / "python", f"{made} {uv}"))
    assert done.returncode == 0, done.stderr
    assert "uv pip install --quiet --require-hashes" in (tmp_path / "called").read_text()

"""What a guest has of the package can show and replay logs, with Python's standard library alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from recorded_boot import BOOT
from tdxstack.image.guest_bundle import guest_bundle


@pytest.mark.processes
def test_replay_from_the_bundle(tmp_path: Path) -> None:
    bundle = tmp_path / "tdxctl.pyz"
    bundle.write_bytes(guest_bundle())
    for verb, expected in (("replay", "eventlog-replay"), ("show", "eventlog")):
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(bundle), "eventlog", verb, str(BOOT / "tpmlog"), "--json"],
            capture_output=True,
            check=True,
            timeout=60,
        )
        assert json.loads(done.stdout)["schema"] == f"tdxstack/{expected}/v1"

"""What all tests share: where the vectors are."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent


def pytest_configure() -> None:
    """Tests interrupt commands; a shell's background job would hand its deafness for SIGINT down to them."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of third-party vectors (``TDXSTACK_VECTORS``), or skip."""
    folder = Path(os.environ.get("TDXSTACK_VECTORS", PROJECT.parent / "shared" / "vectors"))
    if not folder.is_dir():
        pytest.skip(f"no vectors at {folder} (set TDXSTACK_VECTORS)")
    return folder

"""What all tests share: where the vectors are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of third-party vectors (``TDXSTACK_VECTORS``), or skip."""
    folder = Path(os.environ.get("TDXSTACK_VECTORS", PROJECT.parent / "shared" / "vectors"))
    if not folder.is_dir():
        pytest.skip(f"no vectors at {folder} (set TDXSTACK_VECTORS)")
    return folder

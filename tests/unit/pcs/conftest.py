from __future__ import annotations

from pathlib import Path

import pytest

from fake_pcs import FakeService, load


@pytest.fixture
def tdx_folder(vectors: Path) -> Path:
    return vectors / "attestation" / "real" / "dcapqvl-tdx-v4"


@pytest.fixture
def service(tdx_folder: Path) -> FakeService:
    return FakeService(load(tdx_folder))

"""A software platform and a TD that runs on its module model, without firmware or VM."""

from __future__ import annotations

import pytest

from tdxstack.platform.base import TdParameters
from tdxstack.platform.software.module import TdxModule
from tdxstack.platform.software.platform import SoftwarePlatform
from tdxstack.platform.software.td import TrustDomain


def run_td(module: TdxModule, parameters: TdParameters | None = None, hkid: int = 1) -> TrustDomain:
    """A TD with one measured page, brought to RUNNABLE."""
    td = module.mng_create(hkid)
    module.mng_key_config(td)
    module.mng_init(td, parameters or TdParameters(memory_bytes=1 << 31))
    module.mem_page_add(td, 0x1000, b"p" * 4096)
    for chunk in range(16):
        module.mr_extend(td, 0x1000 + 256 * chunk)
    module.mr_finalize(td)
    return td


@pytest.fixture
def platform() -> SoftwarePlatform:
    return SoftwarePlatform.create("lab")


@pytest.fixture
def td(platform: SoftwarePlatform) -> TrustDomain:
    return run_td(platform.module())

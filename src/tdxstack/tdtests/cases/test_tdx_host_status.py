"""TDX on the host: processor, firmware, kernel, module, as ``tdxctl host check`` judges them."""

from __future__ import annotations

import pytest

from tdxstack.platform.base import PlatformKind
from tdxstack.platform.linux_host_source import LiveHost
from tdxstack.platform.registry import open_platform
from tdxstack.preflight.host import Host
from tdxstack.preflight.model import Outcome, Result
from tdxstack.preflight.tree import check_host, host_checks
from tdxstack.tdtests.environment import Environment

pytestmark = pytest.mark.category("environment")
GROUPS = tuple(sorted({check.id.partition(".")[0] for check in host_checks()}))


@pytest.fixture(scope="module")
def checks() -> list[Result]:
    return [one for result in check_host(Host(LiveHost())) for one in result.walk()]


@pytest.mark.requires("tdx-hardware")
@pytest.mark.parametrize("group", GROUPS)
def test_tdx_host_status(checks: list[Result], group: str) -> None:
    found = [one for one in checks if one.check.id.partition(".")[0] == group]
    assert found
    assert [one.check.id for one in found if one.outcome is Outcome.FAIL] == []


@pytest.mark.requires("software-platform")
def test_software_platform_status(env: Environment) -> None:
    """The platform that stands in for the silicon says so, and has what verifies its quotes."""
    platform = open_platform(env.platform_name)
    assert platform.kind is PlatformKind.SOFTWARE
    assert "software" in str(platform.describe()).lower()
    assert {"tcb_info", "qe_identity", "root_ca_crl"} <= set(platform.collateral())
    assert b"software" in platform.trust_root().lower()

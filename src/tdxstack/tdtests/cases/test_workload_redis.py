"""redis in a TD, with its own benchmark."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tdxstack.cloud.vmparam import VM_TYPE_TD
from tdxstack.errors import NetworkFault, PlatformMissing
from tdxstack.tdtests.environment import Environment
from tdxstack.tdtests.guest_packages import install
from tdxstack.tdtests.guest_shell import answer
from tdxstack.tdtests.machines import MachineMaker

pytestmark = pytest.mark.category("workload")
REQUESTS, REQUESTS_EMULATED = 100000, 1000
SECONDS = 1800.0


def test_workload_redis(
    env: Environment, fresh: MachineMaker, record_property: Callable[[str, object], None]
) -> None:
    guest = fresh(VM_TYPE_TD)
    try:
        install(guest, ["redis-server", "redis-tools"], "redis-server")
    except (NetworkFault, PlatformMissing) as error:
        pytest.skip(f"redis is not in the guest: {error}")
    answer(guest, "redis-server --daemonize yes --save '' --bind 127.0.0.1 --dir /run --pidfile /run/redis.pid")
    said = answer(
        guest,
        "for try in $(seq 100); do redis-cli ping 2>/dev/null | grep -q PONG && break; sleep 0.2; done; "
        f"redis-benchmark -t get,set -q -n {env.count(REQUESTS, REQUESTS_EMULATED)} -c 20 --csv",
        timeout=SECONDS,
    )
    figures = dict(re.findall(r'^"(SET|GET)","([\d.]+)"', said, re.M))
    assert set(figures) == {"SET", "GET"}, said
    for name, rate in figures.items():
        record_property(f"{name.lower()}_per_second", float(rate))
        assert float(rate) > 0
    assert answer(guest, "redis-cli set key value && redis-cli get key").split() == ["OK", "value"]

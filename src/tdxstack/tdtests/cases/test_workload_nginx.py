"""nginx in a TD, under load from beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tdxstack.cloud.vmparam import VM_TYPE_TD
from tdxstack.errors import NetworkFault, PlatformMissing
from tdxstack.tdtests.environment import Environment
from tdxstack.tdtests.guest_packages import install
from tdxstack.tdtests.guest_shell import answer
from tdxstack.tdtests.machines import MachineMaker

pytestmark = pytest.mark.category("workload")
REQUESTS, REQUESTS_EMULATED = 100000, 500
SECONDS = 1800.0
LOAD = """
import http.client, sys, time
wanted, total = open("/var/www/html/page").read().encode(), int(sys.argv[1])
connection = http.client.HTTPConnection("127.0.0.1", 80)
began = time.monotonic()
for number in range(total):
    if number % 100 == 0:
        connection.close()
    connection.request("GET", "/page")
    answer = connection.getresponse()
    if (answer.status, answer.read()) != (200, wanted):
        sys.exit(f"request {number}: {answer.status}")
print(total / (time.monotonic() - began))
"""


def test_workload_nginx(
    env: Environment, fresh: MachineMaker, record_property: Callable[[str, object], None], tmp_path: Path
) -> None:
    guest = fresh(VM_TYPE_TD)
    try:
        install(guest, ["nginx"], "nginx")
    except (NetworkFault, PlatformMissing) as error:
        pytest.skip(f"nginx is not in the guest: {error}")
    (tmp_path / "load.py").write_text(LOAD)
    assert guest.scp_in(tmp_path / "load.py", "/run/load.py").retcode == 0
    answer(guest, "mkdir -p /var/www/html && head -c 4096 /dev/urandom | base64 >/var/www/html/page && nginx")
    rate = float(answer(guest, f"python3 /run/load.py {env.count(REQUESTS, REQUESTS_EMULATED)}", timeout=SECONDS))
    record_property("requests_per_second", round(rate, 1))
    assert rate > 0
    assert "GET /page" in answer(guest, "tail -n1 /var/log/nginx/access.log")

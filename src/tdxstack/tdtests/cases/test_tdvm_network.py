"""A TD's network: from the host to it, from it to the host, and to the outside."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tdxstack.cloud.vmguest import VMGuest
from tdxstack.tdtests.environment import Environment
from tdxstack.tdtests.guest_shell import answer

pytestmark = pytest.mark.category("environment")
#: QEMU's user network: the gateway, at which the host's 127.0.0.1 is.
GATEWAY = "10.0.2.2"
CONTENT = b"seen by the guest\n"
PINGS = 3
ECHO = """
import os, socket, struct
def summed(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    total = (total >> 16) + (total & 65535)
    return ~(total + (total >> 16)) & 65535
sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
sock.settimeout(20)
for number in range({pings}):
    head = struct.pack("!BBHHH", 8, 0, 0, os.getpid() & 65535, number)
    sock.sendto(head[:2] + struct.pack("!H", summed(head)) + head[4:], ("{gateway}", 0))
    while True:
        packet, sender = sock.recvfrom(1024)
        kind, _, _, _, sequence = struct.unpack("!BBHHH", packet[20:28])
        if kind == 0 and sequence == number:
            break
    print("answer", sender[0])
"""


@pytest.fixture
def service() -> Iterator[int]:
    """The port of a small HTTP service on the host."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_ssh_forward(td: VMGuest, tmp_path: Path) -> None:
    assert answer(td, "echo over the forwarded port") == "over the forwarded port"
    (tmp_path / "sent").write_bytes(bytes(range(256)) * 256)
    assert td.scp_in(tmp_path / "sent", "/run/sent").retcode == 0
    assert td.scp_out("/run/sent", tmp_path / "back").retcode == 0
    assert (tmp_path / "back").read_bytes() == (tmp_path / "sent").read_bytes()


def test_guest_reaches_host(td: VMGuest, service: int) -> None:
    program = f"import urllib.request as r; print(r.urlopen('http://{GATEWAY}:{service}/', timeout=60).read())"
    assert answer(td, f'python3 -c "{program}"') == str(CONTENT)


def test_ping_gateway(td: VMGuest, tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text(ECHO.format(pings=PINGS, gateway=GATEWAY))
    assert td.scp_in(tmp_path / "echo.py", "/run/echo.py").retcode == 0
    assert answer(td, "python3 /run/echo.py").splitlines() == [f"answer {GATEWAY}"] * PINGS


@pytest.mark.requires("outside")
def test_guest_reaches_outside(env: Environment, td: VMGuest) -> None:
    program = f"import urllib.request as r; print(r.urlopen('{env.outside}', timeout=60).status)"
    assert answer(td, f'python3 -c "{program}"') == "200"

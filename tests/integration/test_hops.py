"""A real TD's way to a quote, broken at each hop in turn: who failed is said."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.conftest import Tdxctl
from tdxstack.wire import qgs

pytestmark = pytest.mark.integration


@pytest.fixture
def qgs_socket(tdxctl: Tdxctl, quickstart: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The socket of the TD's QGS; it is put back afterwards."""
    from tdxstack.system import paths

    monkeypatch.setenv("TDXSTACK_HOME", str(tdxctl.home))
    path = paths.runtime() / quickstart["td"]["name"] / "qgs.sock"
    aside = path.with_name("qgs.sock.aside")
    path.rename(aside)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        aside.rename(path)


@contextlib.contextmanager
def answering(path: Path, answer: bytes) -> Iterator[None]:
    """A QGS that answers every request alike."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                stream, _ = listener.accept()
                with stream:
                    stream.recv(4096)
                    stream.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def failed(tdxctl: Tdxctl, name: str, *words: str) -> tuple[int, str]:
    done = tdxctl("guest", "quote", "--td", name, *words)
    assert done.returncode != 0
    return done.returncode, done.stderr


def test_no_qgs_behind_the_vmm(tdxctl: Tdxctl, quickstart: Any, qgs_socket: Path) -> None:
    name = quickstart["td"]["name"]
    code, said = failed(tdxctl, name)
    assert (code, "no quote, failed at VMM or QGS" in said, "qgsd" in said) == (1, True, True), said
    status = tdxctl("qgs", "status", "--td", name)
    assert (status.returncode, "no QGS at" in status.stderr) == (1, True)


@pytest.mark.parametrize(
    "answer",
    [
        qgs.frame(qgs.GetQuoteResponse(error_code=qgs.QgsError.UNEXPECTED).to_bytes()),
        qgs.frame(qgs.GetPlatformInfoResponse().to_bytes()),
        b"\xff\xff\xff\xff no QGS",
        b"",
    ],
    ids=["refuses", "answers-something-else", "is-none", "hangs-up"],
)
def test_a_qgs_that_gives_no_quote(tdxctl: Tdxctl, quickstart: Any, qgs_socket: Path, answer: bytes) -> None:
    with answering(qgs_socket, answer):
        code, said = failed(tdxctl, quickstart["td"]["name"])
    assert (code, "no quote, failed at VMM or QGS" in said) == (1, True), said


def test_ways_that_this_guest_has_not(tdxctl: Tdxctl, quickstart: Any) -> None:
    name = quickstart["td"]["name"]
    for via, why in (
        ("vsock", "tdx-attest.conf names no port"),
        ("ioctl", "GetQuote ioctl"),
        ("tdvmcall", "GetQuote ioctl"),
    ):
        code, said = failed(tdxctl, name, "--via", via)
        assert (code, why in said) == (4, True), said


def test_no_vsock_falls_through_to_configfs(tdxctl: Tdxctl, quickstart: Any) -> None:
    name = quickstart["td"]["name"]
    tdxctl.ok("td", "exec", name, "sh", "-c", "echo port=4050 > /etc/tdx-attest.conf")
    try:
        code, said = failed(tdxctl, name, "--via", "vsock")
        assert "vsock:2:4050" in said
        assert code in (1, 4)
        if code == 4:  # no vsock device: what is not there is passed over
            assert tdxctl.json("guest", "quote", "--td", name)["via"] == "configfs"
    finally:
        tdxctl.ok("td", "exec", name, "rm", "/etc/tdx-attest.conf")


def test_the_qgs_of_a_td_answers_its_clients(tdxctl: Tdxctl, quickstart: Any, tmp_path: Path) -> None:
    name, files = quickstart["td"]["name"], quickstart["files"]
    assert tdxctl.json("qgs", "status", "--td", name)["platform"] == "software"
    quote, collateral = tmp_path / "quote.bin", tmp_path / "collateral.json"
    tdxctl.ok("qgs", "quote", files["report"], "--td", name, "--raw", "-o", str(quote))
    fmspc = tdxctl.json("platform", "show")["fmspc"]
    tdxctl.ok("qgs", "collateral", "--fmspc", fmspc, "--td", name, "-o", str(collateral))
    words = ("quote", "verify", str(quote), "--collateral", str(collateral), "--trust-root", files["root"])
    assert json.loads(tdxctl(*words, "--json").stdout)["status"] == "UpToDate"
    assert tdxctl("qgs", "collateral", "--fmspc", "0" * 12, "--td", name).returncode == 1

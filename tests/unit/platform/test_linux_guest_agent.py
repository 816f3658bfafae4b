from __future__ import annotations

import errno
import json
import os
import signal
import threading
import tty
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack import __version__
from tdxstack.platform import linux_guest, linux_guest_quote
from tdxstack.platform.linux_guest import GuestPaths
from tdxstack.platform.linux_guest_agent import MAX_LINE, Agent, LineReader, PortServer
from tdxstack.platform.linux_guest_quote import GuestQuote, Via

from .guest_tree import guest_tree


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(guest_tree(tmp_path), {"ccel": "no TPM"})


def ask(agent: Agent, method: str, **params: Any) -> Any:
    return agent.answer(json.dumps({"id": 7, "method": method, "params": params}).encode())


def test_ping(agent: Agent) -> None:
    expected = {"version": __version__, "platform": "software", "faults": {"ccel": "no TPM"}}
    assert ask(agent, "ping") == {"id": 7, "result": expected}


def test_eventlog_registers_ima(agent: Agent) -> None:
    log = ask(agent, "eventlog")["result"]
    assert (b64decode(log["table"]), b64decode(log["data"])) == (b"table", b"log")
    found = ask(agent, "rtmr.read")["result"]
    assert found["mrtd"] == "6d" * 48
    assert found["rtmr"] == [f"{index:02x}" * 48 for index in range(4)]
    assert ask(agent, "rtmr.extend", index=3, digest="0a" * 48)["result"] == {"index": 3, "value": "0a" * 48}
    assert ask(agent, "ima")["result"]["ascii"].startswith("10 ")


def test_report_and_quote(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux_guest, "report", lambda data, paths: b"report over " + data)
    monkeypatch.setattr(linux_guest_quote, "quote", lambda data, via, paths: GuestQuote(b"quote " + data, via))
    data = "ab" * 64
    assert b64decode(ask(agent, "report", report_data=data)["result"]["report"]) == b"report over " + b"\xab" * 64
    answer = ask(agent, "quote", report_data=data, via="vsock")["result"]
    assert (b64decode(answer["quote"]), answer["via"]) == (b"quote " + b"\xab" * 64, "vsock")
    assert ask(agent, "quote", report_data=data)["result"]["via"] == Via.AUTO
    assert ask(agent, "quote", report_data=data, via="tdvmcall")["result"]["via"] == Via.IOCTL
    assert ask(agent, "quote", report_data=data, via="post")["error"]["type"] == "UsageError"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"garbage", "not a line of JSON"),
        (b"\xff\xfe\x00", "not a line of JSON"),
        (b"[1]", "a request is"),
        (b'{"id": 1}', "a request is"),
        (b'{"id": 1, "method": 5}', "a request is"),
        (b'{"id": 1, "method": "ping", "params": [1]}', "params is not an object"),
        (b'{"id": 1, "method": "dance"}', "no method 'dance'"),
        (b'{"id": 1, "method": "report"}', "report_data is not"),
        (b'{"id": 1, "method": "report", "params": {"report_data": 5}}', "report_data is not"),
        (b'{"id": 1, "method": "report", "params": {"report_data": "zz"}}', "report_data is not"),
        (b'{"id": 1, "method": "report", "params": {"report_data": "00"}}', "report_data has 1 bytes"),
        (b'{"id": 1, "method": "rtmr.extend", "params": {"index": true}}', "index True"),
        (b'{"id": 1, "method": "rtmr.extend", "params": {"index": 9, "digest": "' + b"00" * 48 + b'"}}', "RTMR9"),
    ],
)
def test_what_makes_no_sense_is_answered_with_an_error(agent: Agent, line: bytes, message: str) -> None:
    answer = agent.answer(line)
    assert message in answer["error"]["message"]
    assert answer["error"]["exit_code"] == 2
    json.dumps(answer)


def test_an_error_of_the_guest_keeps_kind_hint_and_exit_code(tmp_path: Path) -> None:
    error = ask(Agent(GuestPaths(tmp_path)), "eventlog")["error"]
    assert (error["type"], error["exit_code"]) == ("PlatformMissing", 4)
    assert error["hint"]


def test_an_error_of_the_system_is_answered(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(data: bytes, paths: GuestPaths) -> bytes:
        raise OSError(errno.EMFILE, "too many")

    monkeypatch.setattr(linux_guest, "report", fail)
    assert "too many" in ask(agent, "report", report_data="00" * 64)["error"]["message"]


def test_check_lists_every_interface(agent: Agent) -> None:
    checks = ask(agent, "check")["result"]["checks"]
    assert [item["name"] for item in checks] == ["platform", "device", "report", "ccel", "measurements"]
    assert [item["ok"] for item in checks] == [True, False, False, False, True]
    assert checks[3]["detail"] == "no TPM"


@given(st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), max_size=8), st.integers(1, 9))
def test_lines_are_cut_wherever_the_bytes_are(lines: list[bytes], size: int) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    reader = LineReader()
    found = []
    for start in range(0, len(stream), size):
        found += reader.feed(stream[start : start + size])
    assert found == lines


def test_a_line_that_is_too_long_is_dropped_to_its_end() -> None:
    reader = LineReader()
    assert reader.feed(b"x" * (MAX_LINE + 1)) == []
    assert reader.feed(b"y" * 10) == []
    assert reader.feed(b"z\nnext\n") == [b"next"]
    assert reader.feed(b"x" * (MAX_LINE + 1) + b"\nnext\n") == [b"next"]


class Terminal:
    """The host's end of a port that is a terminal in raw mode."""

    def __init__(self, agent: Agent) -> None:
        self._host, self._guest = os.openpty()
        tty.setraw(self._guest)
        server = PortServer(Path(os.ttyname(self._guest)), agent)
        threading.Thread(target=self._run, args=(server,), daemon=True).start()
        self._rest = b""

    @staticmethod
    def _run(server: PortServer) -> None:
        try:
            server.run()
        except OSError:
            return

    def send(self, data: bytes) -> None:
        os.write(self._host, data)

    def receive(self) -> dict[str, Any]:
        while b"\n" not in self._rest:
            self._rest += os.read(self._host, 4096)
        line, self._rest = self._rest.split(b"\n", 1)
        message: dict[str, Any] = json.loads(line)
        return message

    def close(self) -> None:
        os.close(self._guest)


@pytest.fixture
def port(agent: Agent) -> Iterator[Terminal]:
    terminal = Terminal(agent)
    yield terminal
    terminal.close()


def test_the_port_greets_and_answers(port: Terminal) -> None:
    assert port.receive()["event"] == "ready"
    port.send(b'{"id": 1, "method": "ping"}\n{"id": 2, "method": "ping"}\n')
    assert [port.receive()["id"], port.receive()["id"]] == [1, 2]


def test_the_port_survives_garbage_and_greets_anew(port: Terminal) -> None:
    port.receive()
    port.send(b'\x00\xff{{{\n{"id": 5, "meth')
    assert port.receive()["error"]["type"] == "UsageError"
    port.send(b"\n\n")
    assert port.receive()["error"]["type"] == "UsageError"
    assert port.receive()["event"] == "ready"
    port.send(b'{"id": 6, "method": "ping"}\n')
    assert port.receive()["id"] == 6


@pytest.mark.parametrize(("method", "offset"), [("shutdown", 4), ("reboot", 5)])
def test_init_is_asked_to_end_the_system(monkeypatch: pytest.MonkeyPatch, method: str, offset: int) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    assert Agent().call(method, {}) == {}
    assert sent == [(1, signal.SIGRTMIN + offset)]

"""The guest's end of the agent: lines of JSON on the virtio-serial port ``org.tdxstack.agent.0``.

A request is ``{"id", "method", "params"}``; the answer ``{"id", "result"}`` or
``{"id", "error": {"type", "message", "hint", "exit_code"}}``. When the host connects, and after each empty line, the
guest says ``{"event": "ready", "version", "platform", "faults"}``; a host that is not sure of the guest's state sends
two newlines, which also end a line that another host left half-written. Bytes are base64, digests and REPORTDATA hex.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tdxstack import __version__
from tdxstack.errors import TdxStackError, UsageError
from tdxstack.platform import linux_guest, linux_guest_exec
from tdxstack.platform.linux_guest import REAL, REPORT_DATA_SIZE, GuestPaths

PORT = "org.tdxstack.agent.0"
#: Longest request; answers are as long as they have to be.
MAX_LINE = 64 * 1024
_CHUNK = 64 * 1024
_PAUSE_SECONDS = 0.1
_WRITE_SECONDS = 60.0

#: Signals by which systemd as PID 1 starts poweroff.target and reboot.target (systemd(1), SIGNALS).
POWER_OFF, REBOOT = signal.SIGRTMIN + 4, signal.SIGRTMIN + 5

Params = Mapping[str, Any]


class Agent:
    """The methods. ``faults`` names the parts of a software TD's emulation that are not up, and why."""

    def __init__(self, paths: GuestPaths = REAL, faults: Mapping[str, str] | None = None) -> None:
        self._paths = paths
        self._faults = dict(faults or {})
        self._methods: dict[str, Callable[[Params], dict[str, Any]]] = {
            "ping": lambda params: self.greeting(),
            "check": self._check,
            "audit": self._audit,
            "report": self._report,
            "quote": self._quote,
            "eventlog": self._eventlog,
            "rtmr.read": self._read,
            "rtmr.extend": self._extend,
            "ima": self._ima,
            "exec": self._exec,
            "shutdown": lambda params: _ask_init(POWER_OFF),
            "reboot": lambda params: _ask_init(REBOOT),
        }

    def greeting(self) -> dict[str, Any]:
        """Version, platform and faults."""
        kind = linux_guest.platform_kind(self._paths)
        return {"version": __version__, "platform": kind, "faults": self._faults}

    def call(self, method: str, params: Params) -> dict[str, Any]:
        """Carry out a method.

        Raises:
            UsageError: no such method, or parameters that make no sense.
            TdxStackError: what the method ran into.
        """
        action = self._methods.get(method)
        if action is None:
            raise UsageError(f"the agent has no method {method!r}", hint="it has " + ", ".join(self._methods))
        return action(params)

    def answer(self, line: bytes) -> dict[str, Any]:
        """The answer to one line, whatever stands in it."""
        number: Any = None
        try:
            number, method, params = _request(line)
            return {"id": number, "result": self.call(method, params)}
        except TdxStackError as error:
            return {"id": number, "error": _error(error)}
        except OSError as error:
            return {"id": number, "error": _error(TdxStackError(str(error)))}

    def _check(self, params: Params) -> dict[str, Any]:
        from tdxstack.platform.linux_guest_check import check

        return {"checks": check(self._paths, self._faults)}

    def _audit(self, params: Params) -> dict[str, Any]:
        from tdxstack.platform.linux_guest_audit import audit

        allow = params.get("allow") or []
        if not isinstance(allow, list) or not all(isinstance(name, str) for name in allow):
            raise UsageError("allow is not a list of names")
        return audit(self._paths, allow)

    def _report(self, params: Params) -> dict[str, Any]:
        data = linux_guest.report(_hex(params, "report_data", REPORT_DATA_SIZE), self._paths)
        return {"report": b64encode(data).decode()}

    def _quote(self, params: Params) -> dict[str, Any]:
        from tdxstack.platform.linux_guest_quote import Via, quote

        try:
            via = Via.of(str(params.get("via") or Via.AUTO))
        except ValueError:
            raise UsageError(f"via {params['via']!r} is none of {', '.join(Via)}, tdvmcall") from None
        made = quote(_hex(params, "report_data", REPORT_DATA_SIZE), via, self._paths)
        return {"quote": b64encode(made.quote).decode(), "via": made.via.value}

    def _eventlog(self, params: Params) -> dict[str, Any]:
        log = linux_guest.event_log(self._paths)
        return {"table": b64encode(log.table).decode(), "data": b64encode(log.data).decode()}

    def _read(self, params: Params) -> dict[str, Any]:
        found = linux_guest.registers(self._paths)
        return {"mrtd": found.mrtd.hex(), "rtmr": [value.hex() for value in found.rtmrs], "source": found.source}

    def _extend(self, params: Params) -> dict[str, Any]:
        index = params.get("index")
        if not isinstance(index, int) or isinstance(index, bool):
            raise UsageError(f"index {index!r} is not a number")
        value = linux_guest.extend(index, _hex(params, "digest", linux_guest.DIGEST_SIZE), self._paths)
        return {"index": index, "value": value.hex()}

    def _ima(self, params: Params) -> dict[str, Any]:
        ascii_list, binary_list = linux_guest.ima_list(self._paths)
        return {"ascii": ascii_list.decode(errors="replace"), "binary": b64encode(binary_list).decode()}

    def _exec(self, params: Params) -> dict[str, Any]:
        return linux_guest_exec.run(params, protected=linux_guest.is_protected(self._paths))


def _ask_init(number: int) -> dict[str, Any]:
    """Have init end the system in order; the answer goes out before it does."""
    os.kill(1, number)
    return {}


def _request(line: bytes) -> tuple[Any, str, Params]:
    try:
        request = json.loads(line)
    except ValueError as error:
        raise UsageError(f"not a line of JSON: {error}") from None
    if not isinstance(request, dict) or not isinstance(request.get("method"), str):
        raise UsageError('a request is {"id", "method", "params"}')
    params = request.get("params") or {}
    if not isinstance(params, dict):
        raise UsageError("params is not an object")
    return request.get("id"), request["method"], params


def _hex(params: Params, name: str, size: int) -> bytes:
    try:
        value = bytes.fromhex(params[name])
    except (KeyError, TypeError, ValueError):
        raise UsageError(f"{name} is not a string of hex digits") from None
    if len(value) != size:
        raise UsageError(f"{name} has {len(value)} bytes, not {size}")
    return value


def _error(error: TdxStackError) -> dict[str, Any]:
    message = getattr(error, "message", str(error))
    kind = type(error).__name__
    return {"type": kind, "message": message, "hint": error.hint, "exit_code": int(error.exit_code)}


class LineReader:
    """Cuts a stream into lines. One that is longer than MAX_LINE is dropped to its end."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._dropping = False

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are now whole, those left out that are too long."""
        self._rest += data
        *lines, rest = bytes(self._rest).split(b"\n")
        if lines and self._dropping:
            del lines[0]
            self._dropping = False
        self._rest = bytearray() if self._dropping else bytearray(rest)
        if len(self._rest) > MAX_LINE:
            self._rest.clear()
            self._dropping = True
        return [line for line in lines if len(line) <= MAX_LINE]


class PortServer:
    """Serves the agent on its port; the host may come and go."""

    def __init__(self, path: Path, agent: Agent) -> None:
        self._path = path
        self._agent = agent

    def run(self) -> None:
        """Serve until interrupted.

        Raises:
            OSError: the port cannot be opened: another process has it.
        """
        descriptor = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            while True:
                self._await_host(descriptor)
                self._converse(descriptor)
        finally:
            os.close(descriptor)

    def _await_host(self, descriptor: int) -> None:
        while _poll(descriptor, select.POLLOUT, 0) & select.POLLHUP:
            time.sleep(_PAUSE_SECONDS)

    def _converse(self, descriptor: int) -> None:
        """Say that the agent is there, then answer until the host is gone."""
        lines = LineReader()
        if not _send(descriptor, self._reaction(b"")):
            return
        while True:
            got = _poll(descriptor, select.POLLIN, None)
            if not got & select.POLLIN:
                if got & select.POLLHUP:
                    return
                continue
            try:
                data = os.read(descriptor, _CHUNK)
            except BlockingIOError:
                continue
            if not data:
                return
            for line in lines.feed(data):
                if not _send(descriptor, self._reaction(line)):
                    return

    def _reaction(self, line: bytes) -> dict[str, Any]:
        """What to say after one line, an empty one included."""
        if line.strip():
            return self._agent.answer(line)
        return {"event": "ready", **self._agent.greeting()}


def _poll(descriptor: int, events: int, milliseconds: float | None) -> int:
    poller = select.poll()
    poller.register(descriptor, events)
    ready = poller.poll(milliseconds)
    return ready[0][1] if ready else 0


def _send(descriptor: int, message: Mapping[str, Any]) -> bool:
    """Write one line; whether the host took it."""
    view = memoryview(json.dumps(message).encode() + b"\n")
    deadline = time.monotonic() + _WRITE_SECONDS
    while view:
        got = _poll(descriptor, select.POLLOUT, 1000)
        if got & select.POLLHUP or time.monotonic() > deadline:
            return False
        if got & select.POLLOUT:
            with contextlib.suppress(BlockingIOError):
                view = view[os.write(descriptor, view) :]
    return True

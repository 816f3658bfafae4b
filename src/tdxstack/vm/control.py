"""The supervisor's control socket: lines of JSON, ``{"method", "params"}`` and ``{"result"}`` or ``{"error"}``.

The client here is plain blocking code of the standard library, so that a command that asks one question starts fast.
The server is in ``vm.control_server``.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from typing import Any

from tdxstack.errors import StateError, SystemFault
from tdxstack.vm.error_document import error_from_document
from tdxstack.vm.observation import observe
from tdxstack.vm.record import Place
from tdxstack.vm.spec import Via
from tdxstack.vm.state import ACTIVE
from tdxstack.vm.supervision import adopt

CONNECT_TIMEOUT = 5.0
ADOPT_PATIENCE, ADOPT_INTERVAL = 10.0, 0.05
DEFAULT_TIMEOUT = 60.0


class ControlClient:
    """Talks to the supervisor of one TD; use it as a context manager, or call ``close``.

    ``operation`` is what is wanted of it, as an error tells it.

    Raises:
        StateError: the TD has no supervisor now.
    """

    def __init__(self, name: str, operation: str = "reach it") -> None:
        self._name = name
        self._socket = _connected(name, operation)
        self._stream = self._socket.makefile("rwb")

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stream.close()
        self._socket.close()

    def call(self, method: str, params: Mapping[str, Any] | None = None, *, timeout: float = DEFAULT_TIMEOUT) -> Any:
        """The supervisor's answer to one request, within ``timeout`` seconds.

        Raises:
            RemoteError: it answered with an error.
            SystemFault: it ended, or did not answer in time.
        """
        self._socket.settimeout(timeout)
        try:
            self._stream.write(json.dumps({"method": method, "params": dict(params or {})}).encode() + b"\n")
            self._stream.flush()
            line = self._stream.readline()
        except TimeoutError:
            raise SystemFault(
                f"TD {self._name}: no answer to {method} within {timeout:g} s", hint=f"tdxctl td show {self._name}"
            ) from None
        except OSError as error:
            raise self._ended(method) from error
        if not line.endswith(b"\n"):
            raise self._ended(method)
        answer = json.loads(line)
        if "error" in answer:
            raise error_from_document(answer["error"])
        return answer.get("result")

    def _ended(self, method: str) -> SystemFault:
        return SystemFault(f"TD {self._name}: its supervisor ended during {method}", hint="tdxctl td list")


def _connected(name: str, operation: str) -> socket.socket:
    """A connection to the TD's supervisor; one whose machine goes on without any gets another."""
    try:
        return _connect(name)
    except OSError as error:
        record = observe(name)
        if record.state not in ACTIVE:
            hint = f"tdxctl td {'list' if operation == 'stop' else f'start {name}'}"
            raise StateError(f"TD {name}", operation, record.state.value, "running", hint=hint) from None
        fault = SystemFault(f"TD {name}: its supervisor does not answer: {error}", hint="tdxctl td list")
    if record.spec.via is not Via.LIBVIRT:
        raise fault
    return _adopted(name, fault)


def _adopted(name: str, fault: SystemFault) -> socket.socket:
    """A connection to the supervisor that takes over; the last one may still be letting go."""
    deadline = time.monotonic() + ADOPT_PATIENCE
    while True:
        adopt(name)
        try:
            return _connect(name)
        except OSError:
            if time.monotonic() > deadline:
                raise fault from None
        time.sleep(ADOPT_INTERVAL)


def _connect(name: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    connection.settimeout(CONNECT_TIMEOUT)
    try:
        connection.connect(str(Place(name).control))
    except OSError:
        connection.close()
        raise
    return connection

"""A terminal connected to a TD's console socket."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tdxstack.cli import output
from tdxstack.errors import SystemFault
from tdxstack.system.files import locked

ESCAPE = b"\x1d"
CHUNK = 1 << 12


def relay(path: Path) -> None:
    """Copy between this terminal and the console until Ctrl-], end of input, or the TD's end.

    Raises:
        LockHeld: another terminal is connected.
        SystemFault: the socket does not answer.
    """
    hint = "another terminal has this console; read its log instead: tdxctl td logs NAME --follow"
    with locked(path.with_suffix(".lock"), wait=False, hint=hint), socket.socket(socket.AF_UNIX) as console:
        try:
            console.connect(str(path))
        except OSError as error:
            raise SystemFault(f"cannot reach the console: {error.strerror}", hint="tdxctl td list") from error
        if sys.stdin.isatty():
            output.say("connected; Ctrl-] leaves")
        with _raw(sys.stdin.fileno()):
            _pump(console, sys.stdin.fileno(), sys.stdout.fileno())


def _pump(console: socket.socket, keyboard: int, screen: int) -> None:
    sources: list[int] = [console.fileno(), keyboard]
    while True:
        ready, _, _ = select.select(sources, [], [])
        if console.fileno() in ready:
            data = console.recv(CHUNK)
            if not data:
                return
            os.write(screen, data)
        if keyboard in ready:
            typed = os.read(keyboard, CHUNK)
            before, escape, _ = typed.partition(ESCAPE)
            if before:
                console.sendall(before)
            if escape or not typed:
                return


@contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    """The terminal in raw mode, and as it was afterwards; nothing if it is no terminal."""
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    tty.setraw(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)

"""The sockets of a machine on another host, as sockets here, by one ssh that is started anew when it ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from tdxstack.errors import NetworkFault
from tdxstack.system.process import Child, ended, spawn
from tdxstack.system.sockets import is_listening
from tdxstack.vm.libvirt.far_end import FarEnd

OPEN_TIMEOUT = 20.0
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
LOOK_INTERVAL = 0.05


class Tunnel:
    """Forwards ``sockets``, pairs of (path here, path there); says by ``on_back`` that they are here again."""

    def __init__(self, end: FarEnd, sockets: Sequence[tuple[Path, Path]], log: Path, on_back: Callable[[], None]):
        self._end = end
        self._sockets = tuple(sockets)
        self._log = log
        self._on_back = on_back
        self._child: Child | None = None
        self._watch: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Bring the sockets here.

        Raises:
            NetworkFault: ssh does not get there, or may not forward sockets.
        """
        await self._forward()
        self._watch = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """End it; may be called more than once."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        self._end_child()
        for here, _ in self._sockets:
            here.unlink(missing_ok=True)

    async def _forward(self) -> None:
        for here, _ in self._sockets:
            here.unlink(missing_ok=True)
        forwards = [word for here, there in self._sockets for word in ("-L", f"{here}:{there}")]
        options = ["-nNT", "-o", "ExitOnForwardFailure=yes", "-o", "ControlPath=none", *forwards]
        with self._log.open("ab") as log:
            self._child = child = spawn(self._end.argv(*options), stdout=log, stderr=log)
        deadline = asyncio.get_running_loop().time() + OPEN_TIMEOUT
        while not all(is_listening(here) for here, _ in self._sockets):
            if child.poll() is not None or asyncio.get_running_loop().time() > deadline:
                self._end_child()
                said = self._log.read_text(errors="replace").strip().splitlines()
                raise NetworkFault(
                    f"{self._end.name}: its sockets cannot be forwarded" + (f": {said[-1]}" if said else ""),
                    hint="sshd there must allow it: AllowStreamLocalForwarding yes",
                )
            await asyncio.sleep(LOOK_INTERVAL)

    def _end_child(self) -> None:
        child, self._child = self._child, None
        if child is not None and child.poll() is None:
            child.terminate()
            child.wait()

    async def _keep(self) -> None:
        pause = FIRST_PAUSE
        while True:
            if self._child is not None:
                await ended(self._child)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            with contextlib.suppress(NetworkFault):
                await self._forward()
                pause = FIRST_PAUSE
                self._on_back()

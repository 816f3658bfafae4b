"""The one service in a TD's guest: the emulation, where the platform is software, and the agent."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tdxstack.platform import linux_guest_agent
from tdxstack.platform.linux_guest import REAL

if TYPE_CHECKING:
    from tdxstack.platform.software.guest.emulation import Emulation

_PORTS = Path("/sys/class/virtio-ports")


def notify(text: str) -> None:
    """Tell systemd (sd_notify(3)); nothing happens where the service manager did not ask for it."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as stream,
        contextlib.suppress(OSError),
    ):
        stream.sendto(text.encode(), "\0" + address[1:] if address.startswith("@") else address)


def find_port(name: str) -> Path | None:
    """The device of a virtio-serial port by its name, or None; sysfs is asked, since udev's link may come later."""
    for entry in sorted(_PORTS.glob("*/name")):
        with contextlib.suppress(OSError):
            if entry.read_text().strip() == name:
                return Path("/dev") / entry.parent.name
    return None


def serve(say: Callable[[str], None]) -> None:
    """Run until interrupted. What could not be brought up is said, here and to the host; the rest is served."""
    emulation = _start_emulation()
    faults = emulation.faults if emulation else {}
    for name, fault in faults.items():
        say(f"{name}: {fault}")
    state = f"not all is up: {', '.join(faults)}" if faults else "all is up"
    notify(f"READY=1\nSTATUS={'software TDX platform, it protects nothing; ' if emulation else ''}{state}")
    try:
        _serve_agent(linux_guest_agent.Agent(REAL, faults))
    finally:
        notify("STOPPING=1")
        if emulation:
            emulation.stop()


def _start_emulation() -> Emulation | None:
    from tdxstack.wire.channel import PORT

    port = find_port(PORT)
    if port is None:
        return None
    from tdxstack.platform.software.guest.channel import Channel
    from tdxstack.platform.software.guest.emulation import Emulation

    emulation = Emulation(Channel(port))
    emulation.start()
    return emulation


def _serve_agent(agent: linux_guest_agent.Agent) -> None:
    port = find_port(linux_guest_agent.PORT)
    if port is not None:
        linux_guest_agent.PortServer(port, agent).run()
    while True:
        time.sleep(3600)

"""What only the start of a machine knows: ports, sockets, and what the platform adds to the command line."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tdxstack.platform.base import TdSession
from tdxstack.vm.dialects import Dialect
from tdxstack.vm.network import PortForward

AGENT_PORT = "org.tdxstack.agent.0"


@dataclass(frozen=True, slots=True)
class Launch:
    """The facts of one start. ``accelerator`` is ``kvm`` or ``tcg``; ``disk`` is the overlay or the image itself.

    ``platform_arguments`` and ``platform_machine`` are what the TD session adds. ``smm`` says that the firmware needs
    system management mode and flash for its variables.
    """

    run_dir: Path
    log_dir: Path
    accelerator: str
    mac: str
    firmware: Path | None = None
    smm: bool = False
    disk: Path | None = None
    disk_format: str = "qcow2"
    ssh_port: int | None = None
    ports: tuple[PortForward, ...] = ()
    vsock_cid: int | None = None
    authorized_keys: Path | None = None
    platform_arguments: tuple[str, ...] = ()
    platform_machine: tuple[tuple[str, str], ...] = ()
    incoming: bool = False

    @property
    def qmp(self) -> Path:
        return self.run_dir / "qmp.sock"

    @property
    def console(self) -> Path:
        return self.run_dir / "console.sock"

    @property
    def agent(self) -> Path:
        return self.run_dir / "agent.sock"

    @property
    def gdb(self) -> Path:
        return self.run_dir / "gdb.sock"

    @property
    def console_log(self) -> Path:
        return self.log_dir / "console.log"

    @property
    def firmware_log(self) -> Path:
        return self.log_dir / "firmware.log"


def completed(launch: Launch, dialect: Dialect, session: TdSession, *, incoming: bool = False) -> Launch:
    """The launch with what the session adds; on hardware the dialect says all of it."""
    launch = replace(launch, incoming=incoming)
    if dialect.hardware:
        return launch
    return replace(
        launch,
        platform_arguments=tuple(session.qemu_arguments()),
        platform_machine=tuple(session.machine_properties().items()),
    )

"""TDX on this Linux host: is it there, and the session of a TD that runs on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tdxstack.errors import CollateralError, PlatformMissing
from tdxstack.platform.base import HARDWARE, PlatformKind, TdParameters, TdSession
from tdxstack.wire import qgs

#: Whether KVM was loaded with TDX: ``Y`` or ``N`` (Linux, Documentation/arch/x86/tdx.rst).
KVM_PARAMETER = Path("/sys/module/kvm_intel/parameters/tdx")
KVM_DEVICE = Path("/dev/kvm")


@dataclass(frozen=True, slots=True)
class HostTdx:
    """Whether TDs can run on this host's silicon; ``reason`` says what is missing, or what was found."""

    usable: bool
    reason: str


def probe(parameter: Path = KVM_PARAMETER, device: Path = KVM_DEVICE) -> HostTdx:
    """Look at what the kernel says; nothing is started."""
    if not device.exists():
        return HostTdx(False, f"{device} is absent")
    try:
        value = parameter.read_text().strip()
    except OSError:
        return HostTdx(False, f"{parameter} is absent: KVM without TDX")
    if value not in ("Y", "1"):
        return HostTdx(False, f"{parameter} is {value}: TDX is off")
    return HostTdx(True, f"{parameter} is {value}")


@dataclass(frozen=True, slots=True)
class HardwarePlatform:
    """This machine's TDX. Quotes chain to Intel's root, and their collateral comes from a PCS or PCCS."""

    name: str = HARDWARE

    @classmethod
    def open(cls, name: str = HARDWARE) -> HardwarePlatform:
        """Open it.

        Raises:
            PlatformMissing: TDX is not there or not on.
        """
        found = probe()
        if not found.usable:
            raise PlatformMissing(f"this host cannot run TDs in hardware: {found.reason}", hint="tdxctl host check")
        return cls(name)

    @property
    def kind(self) -> PlatformKind:
        return PlatformKind.TDX

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "kind": str(self.kind), "found": probe().reason}

    def session(self, name: str, parameters: TdParameters, firmware: bytes, run_dir: Path) -> TdSession:
        return HardwareTdSession(parameters)

    def collateral(self) -> dict[str, str]:
        raise CollateralError("collateral", "a hardware platform keeps no collateral", hint="tdxctl collateral fetch")

    def trust_root(self) -> bytes:
        raise CollateralError("root", "the root of hardware quotes is Intel's, published at its provisioning service")


class HardwareTdSession:
    """A TD on silicon: QEMU's ``tdx-guest`` object carries it, the host's QGS makes its quotes."""

    def __init__(self, parameters: TdParameters, qgs_socket: str = qgs.DEFAULT_SOCKET) -> None:
        self._parameters = parameters
        self._qgs_socket = qgs_socket

    def qemu_arguments(self) -> list[str]:
        """``-object`` with QEMU's upstream properties (QEMU, qapi/qom.json, TdxGuestProperties)."""
        import base64
        import json

        properties: dict[str, Any] = {
            "qom-type": "tdx-guest",
            "id": "tdx0",
            "attributes": int(self._parameters.attributes),
        }
        for name in ("mrconfigid", "mrowner", "mrownerconfig"):
            register: bytes = getattr(self._parameters, name)
            if any(register):
                properties[name] = base64.b64encode(register).decode()
        properties["quote-generation-socket"] = {"type": "unix", "path": self._qgs_socket}
        return ["-object", json.dumps(properties, separators=(",", ":"))]

    def machine_properties(self) -> dict[str, str]:
        return {"confidential-guest-support": "tdx0", "kernel-irqchip": "split"}

    async def start(self) -> None:
        """Nothing to bring up."""

    async def attach(self) -> None:
        """Nothing to connect to."""

    async def close(self) -> None:
        """Nothing to end."""

    async def wait_failed(self) -> str:
        import asyncio

        await asyncio.Event().wait()
        return "never"

    def registers(self) -> dict[str, str]:
        return {}

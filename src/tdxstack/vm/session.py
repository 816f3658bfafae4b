"""What stands behind a machine: the platform's TD session, or nothing for a machine that is no TD."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tdxstack.platform.base import TdParameters, TdSession
from tdxstack.platform.linux_host import HardwareTdSession
from tdxstack.platform.registry import open_platform
from tdxstack.platform.software.swtpm import Swtpm
from tdxstack.vm.dialects import wanted_attributes
from tdxstack.vm.record import Place
from tdxstack.vm.site import is_far
from tdxstack.vm.spec import Ima, TdSpec, VmType


class PlainSession:
    """The session of a machine without TDX: nothing to bring up, nothing that could die."""

    def qemu_arguments(self) -> list[str]:
        return []

    def machine_properties(self) -> dict[str, str]:
        return {}

    async def start(self) -> None:
        return

    async def attach(self) -> None:
        return

    async def close(self) -> None:
        return

    async def wait_failed(self) -> str:
        never: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        return await never

    def registers(self) -> dict[str, str]:
        return {}

    def save_state(self) -> bytes:
        return b""

    def load_state(self, data: bytes) -> None:
        return


class TpmSession(PlainSession):
    """The session of a plain machine with a TPM: swtpm, whose state stays with the machine's disk."""

    def __init__(self, state: Path, run_dir: Path) -> None:
        self._control = run_dir / "tpm-control.sock"
        self._swtpm = Swtpm(state, self._control, run_dir / "swtpm.log")

    def qemu_arguments(self) -> list[str]:
        return [
            *("-chardev", f"socket,id=tpm,path={self._control}"),
            *("-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0"),
        ]

    async def start(self) -> None:
        await self._swtpm.start()

    async def close(self) -> None:
        await self._swtpm.close()

    async def wait_failed(self) -> str:
        return await self._swtpm.ended()


def td_session(spec: TdSpec, firmware: Path | None, run_dir: Path) -> TdSession:
    """A session for ``spec`` that boots the file ``firmware``; nothing is started yet.

    Raises:
        PlatformMissing: the spec's platform does not exist here.
    """
    if spec.type is not VmType.TD or firmware is None:
        return TpmSession(Place(spec.name).directory / "tpm", run_dir) if spec.tpm else PlainSession()
    parameters = TdParameters(
        memory_bytes=spec.memory,
        vcpus=spec.vcpus,
        attributes=wanted_attributes(spec),
        mrconfigid=spec.mrconfigid,
        mrowner=spec.mrowner,
        mrownerconfig=spec.mrownerconfig,
        ima_in_rtmr2=spec.ima is not Ima.OFF,
    )
    if is_far(spec):
        # A far TD is on that host's hardware: see FarSite.check.
        return HardwareTdSession(parameters)
    return open_platform(spec.platform).session(spec.name, parameters, firmware.read_bytes(), run_dir)

"""What stands behind a machine: the platform's TD session, or nothing for a machine that is no TD."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tdxstack.platform.base import TdParameters, TdSession, open_platform, open_session
from tdxstack.vm.dialects import wanted_attributes
from tdxstack.vm.spec import TdSpec, VmType


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


def td_session(spec: TdSpec, firmware: Path | None, run_dir: Path) -> TdSession:
    """A session for ``spec`` that boots the file ``firmware``; nothing is started yet.

    Raises:
        PlatformMissing: the spec's platform does not exist here.
    """
    if spec.type is not VmType.TD or firmware is None:
        return PlainSession()
    parameters = TdParameters(
        memory_bytes=spec.memory,
        vcpus=spec.vcpus,
        attributes=wanted_attributes(spec),
        mrconfigid=spec.mrconfigid,
        mrowner=spec.mrowner,
        mrownerconfig=spec.mrownerconfig,
    )
    return open_session(open_platform(spec.platform), spec.name, parameters, firmware.read_bytes(), run_dir)

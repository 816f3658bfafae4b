"""The session of a TD on a software platform."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tdxstack.platform.base import TdParameters

if TYPE_CHECKING:
    from tdxstack.platform.software.platform import SoftwarePlatform


class SoftwareTdSession:
    """What stands behind one running TD on a software platform."""

    def __init__(
        self, platform: SoftwarePlatform, name: str, parameters: TdParameters, firmware: bytes, run_dir: Path
    ) -> None:
        self._platform = platform

    def qemu_arguments(self) -> list[str]:
        raise NotImplementedError

    def machine_properties(self) -> dict[str, str]:
        return {}

    async def start(self) -> None:
        raise NotImplementedError

    async def attach(self) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError

    async def wait_failed(self) -> str:
        raise NotImplementedError

    def registers(self) -> dict[str, str]:
        return {}

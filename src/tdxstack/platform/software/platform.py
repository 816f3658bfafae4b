"""A software platform as a directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tdxstack.errors import PlatformMissing
from tdxstack.platform.base import PlatformKind, TdParameters, TdSession, check_name
from tdxstack.system import paths


class SoftwarePlatform:
    """A software platform that exists on this machine."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @staticmethod
    def names() -> list[str]:
        """Names of the software platforms of this machine, sorted."""
        return sorted(entry.parent.name for entry in paths.platforms().glob("*/platform.json"))

    @classmethod
    def open(cls, name: str) -> SoftwarePlatform:
        """Open a platform by name.

        Raises:
            PlatformMissing: there is none of this name.
        """
        directory = paths.platforms() / check_name(name)
        if not (directory / "platform.json").is_file():
            raise PlatformMissing(f"no platform named {name!r}", hint=f"tdxctl platform create {name}")
        return cls(directory)

    @classmethod
    def open_or_create(cls, name: str) -> SoftwarePlatform:
        """Open a platform, making it first if need be."""
        return cls.open(name)

    @property
    def name(self) -> str:
        return self._directory.name

    @property
    def kind(self) -> PlatformKind:
        return PlatformKind.SOFTWARE

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "kind": str(self.kind)}

    def session(self, name: str, parameters: TdParameters, firmware: bytes, run_dir: Path) -> TdSession:
        raise NotImplementedError

    def collateral(self) -> Mapping[str, str]:
        raise NotImplementedError

    def trust_root(self) -> bytes:
        raise NotImplementedError

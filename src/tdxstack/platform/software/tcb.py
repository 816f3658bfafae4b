"""What a software platform is made of (its SVNs) and what its collateral says about such SVNs. Data, no behaviour.

Both are kept in the platform's directory, so that a platform can be behind its own collateral: then its quotes are
OutOfDate, as on a machine whose BIOS or TDX module was not updated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tdxstack.errors import UsageError

COMPONENTS = 16

#: "SWTDX" and a zero: the family-model-stepping-platform-custom SKU id that all software platforms share.
FMSPC = b"SWTDX\0"
PCEID = bytes(2)


@dataclass(frozen=True, slots=True)
class ModuleVersion:
    """Version of a TDX module and its security version.

    ``major.minor.update`` as the module prints it; ``svn`` and ``major_svn`` are TEE_TCB_SVN[0] and [1].
    """

    major: int = 1
    minor: int = 5
    update: int = 16
    svn: int = 5
    major_svn: int = 1

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.update:02d}"

    @property
    def mr_seam(self) -> bytes:
        """MRSEAM: on a software platform not a digest but a text that says so, 48 bytes."""
        return f"software TDX module {self} (tdxstack)".encode().ljust(48, b"\0")


@dataclass(frozen=True, slots=True)
class PlatformTcb:
    """Security versions of one platform.

    ``components`` are the 16 SGX TCB component SVNs (also used as CPUSVN), ``microcode_svn`` is TEE_TCB_SVN[2].
    """

    components: bytes = bytes((3, 3, 2, 2, 4, 1, 0, 5)) + bytes(8)
    pcesvn: int = 13
    microcode_svn: int = 2
    qe_svn: int = 4
    module: ModuleVersion = field(default_factory=ModuleVersion)

    @property
    def cpusvn(self) -> bytes:
        """Intel's CPUSVN is opaque; a software platform's is its components."""
        return self.components

    @property
    def tee_tcb_svn(self) -> bytes:
        """TEE_TCB_SVN of a TD made on this platform, 16 bytes."""
        return bytes((self.module.svn, self.module.major_svn, self.microcode_svn)) + bytes(13)

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "components": list(self.components)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> PlatformTcb:
        """Read what :meth:`to_json` wrote.

        Raises:
            UsageError: a field is missing, of the wrong type or out of range.
        """
        try:
            components = bytes(value["components"])
            if len(components) != COMPONENTS:
                raise ValueError(f"{len(components)} components, not {COMPONENTS}")
            return cls(
                components=components,
                pcesvn=_within(value["pcesvn"], 0xFFFF),
                microcode_svn=_within(value["microcode_svn"], 0xFF),
                qe_svn=_within(value["qe_svn"], 0xFFFF),
                module=ModuleVersion(**{key: _within(number, 0xFFFF) for key, number in value["module"].items()}),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"not a platform's TCB: {error}") from None


def _within(value: object, limit: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= limit:
        raise ValueError(f"{value!r} is not within 0..{limit}")
    return value


@dataclass(frozen=True, slots=True)
class TcbReference:
    """What is the newest TCB, according to the platform's own collateral. ``evaluation`` is the TCB-R number."""

    current: PlatformTcb = field(default_factory=PlatformTcb)
    evaluation: int = 20
    tcb_date: str = "2026-05-12T00:00:00Z"
    previous_date: str = "2025-05-14T00:00:00Z"
    advisories: tuple[str, ...] = ("SOFTWARE-SA-00001",)
    revoked_pck: bool = False

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "current": self.current.to_json(), "advisories": list(self.advisories)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TcbReference:
        """Read what :meth:`to_json` wrote.

        Raises:
            UsageError: a field is missing or of the wrong type.
        """
        try:
            return cls(
                current=PlatformTcb.from_json(value["current"]),
                evaluation=_within(value["evaluation"], 0xFFFFFFFF),
                tcb_date=str(value["tcb_date"]),
                previous_date=str(value["previous_date"]),
                advisories=tuple(str(item) for item in value["advisories"]),
                revoked_pck=bool(value["revoked_pck"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"not a TCB reference: {error}") from None

"""The two things a platform gives: TD sessions for the VM that carries a TD, and what a verifier needs.

Platforms have names: ``tdx`` is this machine's TDX hardware; every other one is a software platform, a directory
under :func:`tdxstack.system.paths.platforms`. They are opened by ``platform.registry``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tdxstack.errors import UsageError
from tdxstack.wire.tdreport import TdAttributes

#: Name of the platform that is this machine's TDX hardware.
HARDWARE = "tdx"
#: Software platform that is used, and made on first use, when no other is named.
DEFAULT_SOFTWARE = "software"

#: Id of the virtio-serial bus that the VM provides for the channel's port.
SERIAL_BUS = "serial0"

MR_SIZE = 48
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


class PlatformKind(StrEnum):
    """Silicon or its stand-in. The word ``software`` goes into everything that a software platform makes."""

    SOFTWARE = "software"
    TDX = "tdx"


#: XFAM of a TD that has x87, SSE, AVX, AVX-512, PKRU and AMX: what a Sapphire Rapids host gives its TDs.
DEFAULT_XFAM = 0x61AE7


@dataclass(frozen=True, slots=True)
class TdParameters:
    """What is fixed about a TD when it is created (TD_PARAMS) and what of its shape enters its measurements.

    ``mrconfigid``, ``mrowner`` and ``mrownerconfig`` have 48 bytes; ``memory_bytes`` decides the TD HOB.
    ``ima_in_rtmr2`` says that the guest's kernel extends RTMR2 by each entry of its IMA list, as Intel's TDX 1.5
    guest kernel does and upstream's does not; only a software platform has to be told.

    Raises:
        UsageError: a register of another size, no memory or no vCPU.
    """

    memory_bytes: int
    vcpus: int = 1
    attributes: int = TdAttributes.SEPT_VE_DISABLE
    xfam: int = DEFAULT_XFAM
    mrconfigid: bytes = bytes(MR_SIZE)
    mrowner: bytes = bytes(MR_SIZE)
    mrownerconfig: bytes = bytes(MR_SIZE)
    ima_in_rtmr2: bool = False

    def __post_init__(self) -> None:
        for name in ("mrconfigid", "mrowner", "mrownerconfig"):
            if len(getattr(self, name)) != MR_SIZE:
                raise UsageError(f"{name} has {len(getattr(self, name))} bytes, not {MR_SIZE}")
        if self.memory_bytes <= 0 or self.vcpus <= 0:
            raise UsageError("a TD needs memory and at least one vCPU")


class TdSession(Protocol):
    """What stands behind one running TD, from before its VM starts until after it ends.

    Order of calls: ``start``, (start QEMU with the arguments), ``attach``, ..., ``close``. ``close`` may be called at
    any time and more than once. None of it is bound to a thread; all coroutines run in one event loop.
    """

    def qemu_arguments(self) -> list[str]:
        """The part of QEMU's argv that carries the TD. The bus ``serial0`` is the VM's to add."""
        ...

    def machine_properties(self) -> dict[str, str]:
        """Properties for ``-machine``, e.g. ``confidential-guest-support``."""
        ...

    async def start(self) -> None:
        """Bring up what QEMU connects to."""
        ...

    async def attach(self) -> None:
        """Connect to the sockets that QEMU listens on; call when QEMU has started."""
        ...

    async def close(self) -> None:
        """End all processes and tasks, remove all sockets."""
        ...

    async def wait_failed(self) -> str:
        """End only when a part of the session has died; say which, in one line."""
        ...

    def registers(self) -> dict[str, str]:
        """``mrtd``, ``rtmr0`` .. ``rtmr3`` in hex, as far as the host can know them (hardware: none)."""
        ...


@runtime_checkable
class SavableTdSession(TdSession, Protocol):
    """A session whose TD can be saved beside its machine's memory. Hardware has none: a TD only migrates."""

    def save_state(self) -> bytes:
        """The TD's state, sealed to its platform; take it while the machine is stopped."""
        ...

    def load_state(self, data: bytes) -> None:
        """Let the TD take up a saved state when the machine resumes its own (loadvm, or -incoming)."""
        ...


class Platform(Protocol):
    """A platform that can run TDs and say how their quotes are verified."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> PlatformKind: ...

    def describe(self) -> dict[str, Any]:
        """Facts for people and JSON: SVNs, FMSPC, module version, validity of the collateral."""
        ...

    def session(self, name: str, parameters: TdParameters, firmware: bytes, run_dir: Path) -> TdSession:
        """A session for TD ``name`` that boots ``firmware`` (a whole TDVF file); its sockets live in ``run_dir``."""
        ...

    def collateral(self) -> Mapping[str, str]:
        """Verification collateral in the JSON shape that verifiers share (``tcb_info``, ``qe_identity``, ...)."""
        ...

    def trust_root(self) -> bytes:
        """DER certificate to which the platform's quotes chain."""
        ...


def check_name(name: str) -> str:
    """A name that is safe as a directory.

    Raises:
        UsageError: it is not.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a name: use a-z, 0-9, '.', '_' and '-', at most 63, first a letter or digit"
        )
    return name

"""The session of a TD on a software platform: a TPM whose extends become RTMRs, the channel, and a QGS."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from tdxstack.errors import UsageError, WireError
from tdxstack.measure.launch import launch_events
from tdxstack.measure.rtmr import rtmr_of_index
from tdxstack.platform.base import SERIAL_BUS, TdParameters
from tdxstack.platform.software.channel import ChannelServer, Leaves
from tdxstack.platform.software.loader import HKID, launch, retire
from tdxstack.platform.software.module import TdxModule
from tdxstack.platform.software.qgs_server import QgsServer, QgsService
from tdxstack.platform.software.swtpm import Swtpm
from tdxstack.platform.software.td import TrustDomain
from tdxstack.platform.software.td_state import restore, save
from tdxstack.platform.software.tpm_tap import TpmTap
from tdxstack.system.files import private_directory
from tdxstack.wire import channel
from tdxstack.wire.tcg import Algorithm, mr_index_of_pcr
from tdxstack.wire.tpm2 import Extend

if TYPE_CHECKING:
    from tdxstack.platform.software.platform import SoftwarePlatform

log = logging.getLogger(__name__)

#: Longest path of a unix socket on Linux (sun_path), without the final NUL.
MAX_SOCKET_PATH = 107
IMA_PCR = 10
#: PCR 5 is extended by this when the firmware has handed over: what comes later is the operating system's.
EXIT_BOOT_SERVICES_PCR = 5
EXIT_BOOT_SERVICES = hashlib.sha384(b"Exit Boot Services Returned with Success").digest()


class SoftwareTdSession:
    """What stands behind one running TD on a software platform.

    It launches the TD on the module model (the firmware that boots is the one that is measured), runs swtpm and the
    tap, serves the channel and a QGS at ``run_dir/qgs.sock``. See :class:`tdxstack.platform.base.TdSession`.
    """

    def __init__(
        self, platform: SoftwarePlatform, name: str, parameters: TdParameters, firmware: bytes, run_dir: Path
    ) -> None:
        self._platform = platform
        self._name = name
        self._parameters = parameters
        self._firmware = firmware
        self._run_dir = run_dir
        self._module = platform.module()
        self._td: TrustDomain | None = None
        self._firmware_runs = True
        self._saved: bytes | None = None
        self._resources = contextlib.AsyncExitStack()
        self._swtpm: Swtpm | None = None
        self._tap: TpmTap | None = None
        self._channel: ChannelServer | None = None

    def qemu_arguments(self) -> list[str]:
        """A TPM behind the tap and the channel's port."""
        return [
            "-chardev",
            f"socket,id=tdxtpm,path={self._path('tpm.sock')}",
            "-tpmdev",
            "emulator,id=tdxtpm0,chardev=tdxtpm",
            "-device",
            "tpm-crb,tpmdev=tdxtpm0",
            "-chardev",
            f"socket,id=tdxchannel,path={self._path('channel.sock')},server=on,wait=off",
            "-device",
            f"virtserialport,bus={SERIAL_BUS}.0,chardev=tdxchannel,name={channel.PORT}",
        ]

    def machine_properties(self) -> dict[str, str]:
        return {}

    async def start(self) -> None:
        """Launch the TD on the model, start QGS, swtpm and tap.

        Raises:
            WireError: the firmware is not a TDVF.
            LockHeld: a TD of this name runs on the platform.
            SystemFault: a program or socket is not to be had.
        """
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise

    async def attach(self) -> None:
        """Connect the channel to QEMU.

        Raises:
            SystemFault: QEMU does not listen.
        """
        records = b"".join(event.to_bytes() for event in launch_events(self._firmware, self._parameters.memory_bytes))
        server = ChannelServer(self._path("channel.sock"), Leaves(self.td, records, self._path("qgs.sock")))
        self._resources.push_async_callback(server.close)
        await server.attach()
        self._channel = server

    async def close(self) -> None:
        """End everything, last started first. QEMU says goodbye to its TPM: let it end before, or beside this."""
        await self._resources.aclose()
        self._path("channel.sock").unlink(missing_ok=True)

    async def wait_failed(self) -> str:
        """End when swtpm, the tap or the channel has died; say which."""
        waits = [part.ended() for part in (self._swtpm,) if part]
        waits += [part.failed() for part in (self._tap, self._channel) if part]
        tasks = [asyncio.ensure_future(wait) for wait in waits]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return next(task.result() for task in tasks if task in done)
        finally:
            for task in tasks:
                task.cancel()

    def registers(self) -> dict[str, str]:
        return self._td.registers() if self._td else {}

    def td(self) -> TrustDomain:
        """The TD on the module model. A reboot of the guest makes a new one.

        Raises:
            UsageError: not started.
        """
        if self._td is None:
            raise UsageError(f"the session of TD {self._name} was not started")
        return self._td

    def save_state(self) -> bytes:
        """The TD's state, sealed to its platform, to be kept beside the machine's. Stop the machine before.

        Raises:
            ModuleError: the TD does not run.
        """
        return bytes([self._firmware_runs]) + save(self.td())

    def load_state(self, data: bytes) -> None:
        """Let the TD take up a saved state when its TPM resumes (QEMU's loadvm, or -incoming).

        Raises:
            ModuleError: saved on another platform, or changed.
            WireError: not a saved state.
        """
        if data[:1] not in (b"\0", b"\1"):
            raise WireError("software session state", "phase", 0, "neither 0 nor 1")
        module = self._platform.module()
        restore(_blank(module), data[1:])
        self._saved = data

    async def _start(self) -> None:
        private_directory(self._run_dir)
        for name in ("tpm.sock", "tpm-control.sock", "channel.sock", "qgs.sock"):
            self._check_path(self._path(name))
        self._resources.enter_context(self._platform.used_by(self._name))
        self._relaunch()
        server = QgsServer(QgsService(self._platform))
        await server.listen_unix(self._path("qgs.sock"))
        self._resources.push_async_callback(server.close)
        swtpm = Swtpm(self._path("tpm"), self._path("tpm-control.sock"), self._path("swtpm.log"))
        self._resources.push_async_callback(swtpm.close)
        await swtpm.start()
        tap = TpmTap(self._path("tpm.sock"), self._path("tpm-control.sock"), self._extended, self._tpm_started)
        self._resources.push_async_callback(tap.close)
        tap.listen()
        self._swtpm, self._tap = swtpm, tap

    def _path(self, name: str) -> Path:
        return self._run_dir / name

    def _check_path(self, path: Path) -> None:
        if len(bytes(path)) > MAX_SOCKET_PATH:
            raise UsageError(
                f"{path} is too long for a socket (at most {MAX_SOCKET_PATH} bytes)",
                hint="set TDXSTACK_RUNTIME to a directory with a shorter path",
            )

    def _relaunch(self) -> None:
        """Launch the TD, in place of the one before."""
        if self._td is not None:
            retire(self._module, self._td)
        self._td = launch(self._module, self._parameters, self._firmware)
        self._firmware_runs = True

    def _tpm_started(self, resumed: bool) -> None:
        """The TPM starts with the machine: PCRs are zero again, and so must the RTMRs be; or both are as saved."""
        if not resumed:
            self._relaunch()
        elif self._saved is not None:
            if self._td is not None:
                retire(self._module, self._td)
            self._td = _blank(self._module)
            restore(self._td, self._saved[1:])
            self._firmware_runs = self._saved[:1] == b"\1"

    def _extended(self, extend: Extend) -> None:
        """Carry a PCR extend over to its RTMR, as TDVF would have extended that one."""
        digest = extend.digest(Algorithm.SHA384)
        index = mr_index_of_pcr(extend.pcr)
        rtmr = rtmr_of_index(index) if index is not None else None
        if digest is None or rtmr is None or not self._reaches_rtmr(extend.pcr):
            return
        self.td().mr_rtmr_extend(rtmr, digest)
        if extend.pcr == EXIT_BOOT_SERVICES_PCR and digest == EXIT_BOOT_SERVICES:
            self._firmware_runs = False

    def _reaches_rtmr(self, pcr: int) -> bool:
        """Whether an extend of this PCR would extend an RTMR on hardware.

        The firmware's all do. After it has handed over, an operating system's use of its TPM does not; IMA's does
        where the guest's kernel is one that extends RTMR2 by IMA's entries (Intel's TDX 1.5 guest kernel).
        """
        return self._firmware_runs or (pcr == IMA_PCR and self._parameters.ima_in_rtmr2)


def _blank(module: TdxModule) -> TrustDomain:
    """A TD that is created and keyed, to be given a state."""
    td = module.mng_create(HKID)
    module.mng_key_config(td)
    return td

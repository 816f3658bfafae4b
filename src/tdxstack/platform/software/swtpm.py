"""A TPM for one TD: swtpm, with the banks that a TD's measured boot needs."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

from tdxstack.errors import SystemFault
from tdxstack.system import process
from tdxstack.system.files import private_directory
from tdxstack.system.sockets import is_listening

#: SHA-384 becomes the RTMRs; SHA-256 is what Linux's IMA looks for first.
BANKS = "sha256,sha384"
_STATE_FILE = "tpm2-00.permall"
_SETUP_SECONDS = 60.0
_START_SECONDS = 10.0
_STOP_SECONDS = 3.0


class Swtpm:
    """One swtpm process.

    Args:
        state: directory of the TPM's state; prepared on first use, kept afterwards.
        control: path of the control socket.
        log: file for swtpm's output.
    """

    def __init__(self, state: Path, control: Path, log: Path) -> None:
        self._state = state
        self._control = control
        self._log = log
        self._process: process.Child | None = None
        self._pidfd: int | None = None

    async def start(self) -> None:
        """Prepare the state if there is none, start swtpm, wait for its socket.

        Raises:
            ProgramMissing, ProcessFailed: swtpm or swtpm_setup.
            SystemFault: swtpm ended at once or does not listen.
        """
        if not (self._state / _STATE_FILE).exists():
            await asyncio.to_thread(self._prepare)
        self._spawn()
        deadline = asyncio.get_running_loop().time() + _START_SECONDS
        while not is_listening(self._control):
            if self.returncode is not None or asyncio.get_running_loop().time() > deadline:
                text = self._log.read_text(errors="replace").strip().splitlines()
                raise SystemFault(
                    "swtpm does not run: " + (text[-1] if text else "no output"), hint=f"see {self._log}"
                )
            await asyncio.sleep(0.01)

    @property
    def returncode(self) -> int | None:
        """Status of the process, None while it runs or before it was started."""
        return self._process.poll() if self._process else None

    @property
    def pid(self) -> int | None:
        """Process id, or None."""
        return self._process.pid if self._process else None

    async def ended(self) -> str:
        """Wait until swtpm has ended; say how."""
        if self._process is None or self._pidfd is None:
            return "swtpm was not started"
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        loop.add_reader(self._pidfd, done.set)
        try:
            await done.wait()
        finally:
            loop.remove_reader(self._pidfd)
        return f"swtpm ended with status {self._process.poll()}, see {self._log}"

    async def close(self) -> None:
        """End the process and remove its socket."""
        if self._process is not None:
            self._process.terminate()
            try:
                await asyncio.to_thread(self._process.wait, _STOP_SECONDS)
            except process.ChildTimeout:
                self._process.kill()
                self._process.wait()
        if self._pidfd is not None:
            with contextlib.suppress(OSError):
                os.close(self._pidfd)
            self._pidfd = None
        self._control.unlink(missing_ok=True)

    def _prepare(self) -> None:
        private_directory(self._state)
        argv = ["swtpm_setup", "--tpm2", "--tpmstate", str(self._state), "--pcr-banks", BANKS, "--overwrite"]
        process.run(argv, timeout=_SETUP_SECONDS)

    def _spawn(self) -> None:
        self._control.unlink(missing_ok=True)
        argv = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self._state}"]
        argv += ["--ctrl", f"type=unixio,path={self._control},mode=0600"]
        with self._log.open("ab") as log:
            self._process = process.spawn(argv, stdout=log, stderr=log)
        self._pidfd = os.pidfd_open(self._process.pid)

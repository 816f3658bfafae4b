"""Commands on this host or in a guest: an argument list, a timeout, and what came of it.

The original's names: a runner is made with the command, run with ``runwait`` or ``runnowait``, and then has
``retcode`` and the lines of ``stdout`` and ``stderr``. A command that fails is a ``retcode``, not an exception; one
that cannot be started or does not end is an exception.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from tdxstack.errors import ProcessTimeout, StateError, UsageError
from tdxstack.system.process import Child, ChildTimeout, spawn

#: Seconds that a command may take where nothing else is said: an hour.
DEFAULT_TIMEOUT = 3600.0
KILL_PATIENCE = 10.0


class CMDRunner:
    """Runs one command once.

    Args:
        cmdarr: program and arguments; a string is one program without arguments.
        timeout: seconds that ``runwait`` and ``wait`` let it run before it is killed.

    Raises:
        UsageError: no command.
    """

    def __init__(self, cmdarr: Sequence[str] | str, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        self.cmdarr = (cmdarr,) if isinstance(cmdarr, str) else tuple(cmdarr)
        if not self.cmdarr:
            raise UsageError("an empty command", hint='e.g. ["uname", "-r"]')
        self._timeout = timeout
        self._child: Child | None = None
        self._out: IO[bytes] | None = None
        self._err: IO[bytes] | None = None
        self.retcode: int | None = None
        self.stdout: list[str] = []
        self.stderr: list[str] = []

    @property
    def argv(self) -> list[str]:
        """The argument list that is started."""
        return list(self.cmdarr)

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._child is not None and self.retcode is None and self._child.poll() is None

    def runwait(self) -> CMDRunner:
        """Run to the end; returns this runner.

        Raises:
            ProgramMissing: the program is not installed.
            ProcessTimeout: it did not end in time, and was killed.
        """
        self.runnowait()
        self.wait()
        return self

    def runnowait(self) -> CMDRunner:
        """Start, and return at once; ``wait`` collects what comes of it."""
        if self._child is not None:
            raise StateError("the command", "run it again", "started", "a runner of its own")
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 - closed by _collect
        # The kernel ends the child with the thread that starts it; only the main thread lives as long as we do.
        main = threading.current_thread() is threading.main_thread()
        self._child = spawn(self.argv, stdout=self._out, stderr=self._err, die_with_parent=main, new_session=True)
        return self

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; the exit status (negative: the signal that ended it)."""
        if self._child is None:
            raise StateError("the command", "wait for it", "not started", "started")
        seconds = self._timeout if timeout is None else timeout
        try:
            status = self._child.wait(seconds)
        except ChildTimeout:
            self.terminate()
            raise ProcessTimeout(self.cmdarr, seconds) from None
        except BaseException:
            self.terminate()
            raise
        self._collect(status)
        return status

    def terminate(self) -> None:
        """End it if it runs, and collect what it has said."""
        if self._child is None or self.retcode is not None:
            return
        self._child.terminate()
        try:
            status = self._child.wait(KILL_PATIENCE)
        except ChildTimeout:
            self._child.kill()
            status = self._child.wait()
        self._collect(status)

    def _collect(self, status: int) -> None:
        self.retcode = status
        self.stdout, self.stderr = _lines(self._out), _lines(self._err)
        self._out = self._err = None


def _lines(stream: IO[bytes] | None) -> list[str]:
    if stream is None:
        return []
    with contextlib.closing(stream):
        stream.seek(0)
        return stream.read().decode(errors="replace").splitlines()


class NativeCmdRunner(CMDRunner):
    """Runs a command on this host."""


class SSHCmdRunner(CMDRunner):
    """Runs a command on another machine by ssh.

    As ssh does it, the words are joined by spaces and given to the shell there; quote what that shell must not split.

    Args:
        cmdarr: the command's words, or a whole line for the shell there.
        host, port, user: where.
        ssh_id_key: private key, or None for what ssh would take.
        options: further options of ssh, before the destination.
    """

    def __init__(
        self,
        cmdarr: Sequence[str] | str,
        host: str,
        *,
        port: int = 22,
        user: str = "root",
        ssh_id_key: str | Path | None = None,
        options: Sequence[str] = (),
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        super().__init__(cmdarr, timeout=timeout)
        if host.startswith("-") or user.startswith("-"):
            raise UsageError(f"{user}@{host} is no destination", hint="give a host name or address")
        self._destination = f"{user}@{host}"
        identity = [] if ssh_id_key is None else ["-i", str(ssh_id_key), "-o", "IdentitiesOnly=yes"]
        self._options = ["-p", str(port), "-o", "BatchMode=yes", *identity, *options]

    @property
    def argv(self) -> list[str]:
        return ["ssh", *self._options, self._destination, " ".join(self.cmdarr)]


#: What makes a runner of a command: ``NativeCmdRunner``, or one with a destination filled in.
RunnerFactory = Callable[[Sequence[str]], CMDRunner]

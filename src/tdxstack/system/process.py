"""One way to run a program: an argv list, an explicit timeout, and errors that hold the output."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn

from tdxstack.errors import ProcessFailed, ProcessTimeout, ProgramMissing

if TYPE_CHECKING:
    import asyncio

#: The handle of a program that was started with ``spawn``.
Child = subprocess.Popen[bytes]

#: Debian package of each program that tdxstack starts, for the error's hint.
PACKAGES: dict[str, str] = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "setpriv": "util-linux",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "scp": "openssh-client",
    "swtpm": "swtpm",
    "swtpm_setup": "swtpm-tools",
    "createrepo_c": "createrepo-c",
    "dpkg-deb": "dpkg",
    "git": "git",
    "gpg": "gnupg",
    "mmdebstrap": "mmdebstrap",
    "sbsign": "sbsigntool",
    "sbattach": "sbsigntool",
    "sbverify": "sbsigntool",
    "mcopy": "mtools",
    "mdir": "mtools",
    "debugfs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "qemu-storage-daemon": "qemu-utils",
    "gdb": "gdb",
    "zstd": "zstd",
    "lz4": "lz4",
}

ChildTimeout = subprocess.TimeoutExpired
PIPE = subprocess.PIPE
STDOUT = subprocess.STDOUT


@dataclass(frozen=True, slots=True)
class Completed:
    """What a program left behind. Output is bytes; ``text`` decodes it leniently."""

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        return self.stdout.decode(errors="replace")


def find(program: str) -> str:
    """Absolute path of ``program``.

    Raises:
        ProgramMissing: it is not on PATH (nor in the sbin directories).
    """
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin:/usr/local/sbin")
    if path is None:
        name = Path(program).name
        raise ProgramMissing(program, package=PACKAGES.get(name))
    return path


def run(
    argv: Sequence[str],
    *,
    timeout: float,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    cwd: Path | None = None,
    check: bool = True,
) -> Completed:
    """Run a program to its end and collect its output.

    Args:
        argv: program and arguments; never a shell string.
        timeout: seconds until it is killed.
        env: the whole environment, or None for the caller's.
        stdin: bytes to feed; None means /dev/null.
        check: raise when the status is not zero.

    Raises:
        ProgramMissing, ProcessFailed, ProcessTimeout
    """
    resolved = [find(argv[0]), *argv[1:]]
    try:
        done = subprocess.run(
            resolved,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=timeout,
            env=dict(env) if env is not None else None,
            cwd=cwd,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ProcessTimeout(argv, timeout) from None
    if check and done.returncode != 0:
        output = (done.stderr or done.stdout).decode(errors="replace")
        raise ProcessFailed(argv, done.returncode, output)
    return Completed(tuple(argv), done.returncode, done.stdout, done.stderr)


def spawn(
    argv: Sequence[str],
    *,
    stdin: int | IO[bytes] | None = None,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
    die_with_parent: bool = True,
    new_session: bool = False,
) -> Child:
    """Start a long-lived program and return its handle; the caller owns it and must end it.

    With ``die_with_parent`` the kernel kills the child when the thread that started it ends, so that a
    killed supervisor leaves no orphan (``setpriv --pdeathsig KILL``). Call it from the main thread then.
    """
    resolved = [find(argv[0]), *argv[1:]]
    if die_with_parent:
        resolved = [find("setpriv"), "--pdeathsig", "KILL", "--", *resolved]
    return subprocess.Popen(
        resolved,
        stdin=subprocess.DEVNULL if stdin is None else stdin,
        stdout=subprocess.DEVNULL if stdout is None else stdout,
        stderr=subprocess.DEVNULL if stderr is None else stderr,
        env=dict(env) if env is not None else None,
        cwd=cwd,
        pass_fds=tuple(pass_fds),
        start_new_session=new_session,
    )


def first_bytes(argv: Sequence[str], length: int, *, timeout: float) -> bytes:
    """At most ``length`` bytes that a program says first; fewer if it says no more within ``timeout`` seconds.

    Raises:
        ProgramMissing: it is not installed.
    """
    with subprocess.Popen(
        [find(argv[0]), *argv[1:]], stdin=PIPE, stdout=PIPE, stderr=subprocess.DEVNULL, bufsize=0
    ) as child:
        try:
            if child.stdout is None or not select.select([child.stdout], [], [], timeout)[0]:
                return b""
            return child.stdout.read(length) or b""
        finally:
            child.kill()


def become(argv: Sequence[str]) -> NoReturn:
    """Replace this process by a program, which inherits the terminal.

    Raises:
        ProgramMissing: it is not installed.
    """
    os.execv(find(argv[0]), list(argv))  # noqa: S606 - an argv list, no shell


async def ended(child: Child) -> int:
    """Wait in the event loop until ``child`` has ended; its status (negative: the signal that ended it)."""
    import asyncio

    if (status := child.poll()) is not None:
        return status
    loop = asyncio.get_running_loop()
    gone: asyncio.Future[None] = loop.create_future()
    descriptor = os.pidfd_open(child.pid)
    try:
        loop.add_reader(descriptor, _settle, gone)
        await gone
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    return child.wait()


async def process_ended(pid: int) -> None:
    """Wait in the event loop until a process that is no child of ours has ended; for ever if ``pid`` is 0."""
    import asyncio

    loop = asyncio.get_running_loop()
    gone: asyncio.Future[None] = loop.create_future()
    if not pid:
        await gone
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        loop.add_reader(descriptor, _settle, gone)
        await gone
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def kill_process(pid: int) -> None:
    """Kill a process that is no child of ours; it may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)

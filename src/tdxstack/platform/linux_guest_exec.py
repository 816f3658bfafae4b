"""Running a command in the guest for the host: ``exec`` of the guest's agent.

The host of a TD is not trusted, so the guest decides: where the CPU protects nothing (a software platform, a plain
machine) commands are run; in a TD on hardware only where the guest's owner made ``/etc/tdxstack/agent-exec``.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tdxstack.errors import PlatformMissing, SystemFault, UsageError

PERMISSION = Path("/etc/tdxstack/agent-exec")
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}
#: Output beyond this many bytes is cut off.
MAX_OUTPUT = 4 << 20
MAX_SECONDS = 3600.0
DEFAULT_SECONDS = 60.0
_CHUNK = 1 << 16


def run(params: Mapping[str, Any], *, protected: bool, permission: Path = PERMISSION) -> dict[str, Any]:
    """Run ``argv`` for at most ``timeout`` seconds; its ``status`` (negative: the signal), ``stdout`` and ``stderr``.

    Raises:
        PlatformMissing: this guest does not run commands for its host.
        UsageError: parameters that make no sense.
        SystemFault: there is no such program, or it did not end in time.
    """
    argv, seconds = params.get("argv"), params.get("timeout", DEFAULT_SECONDS)
    if not isinstance(argv, list) or not argv or not all(isinstance(word, str) and "\0" not in word for word in argv):
        raise UsageError("argv is a list of strings")
    if not isinstance(seconds, int | float) or not 0 < seconds <= MAX_SECONDS:
        raise UsageError(f"timeout {seconds!r} is no number of seconds up to {MAX_SECONDS:g}")
    if protected and not permission.exists():
        raise PlatformMissing(
            "this guest runs no commands for its host", hint=f"in the guest: touch {permission}; or use ssh"
        )
    status, outputs, whole = _run(argv, time.monotonic() + seconds)
    texts = {name: b64encode(data).decode() for name, data in zip(("stdout", "stderr"), outputs, strict=True)}
    return {"status": status, **texts, "truncated": not whole}


def _run(argv: Sequence[str], deadline: float) -> tuple[int, list[bytes], bool]:
    pipes = [os.pipe(), os.pipe()]
    null = os.open(os.devnull, os.O_RDONLY)
    actions: list[tuple[int, ...]] = [(os.POSIX_SPAWN_DUP2, null, 0)]
    actions += [(os.POSIX_SPAWN_DUP2, writing, number) for number, (_, writing) in enumerate(pipes, 1)]
    try:
        child = os.posix_spawnp(argv[0], list(argv), ENVIRONMENT, file_actions=actions, setsid=True)
    except OSError as error:
        for reading, _ in pipes:
            os.close(reading)
        raise SystemFault(f"{argv[0]}: {error.strerror}") from None
    finally:
        for descriptor in (null, *(writing for _, writing in pipes)):
            os.close(descriptor)
    try:
        outputs, whole = _collect([reading for reading, _ in pipes], deadline)
        return os.waitstatus_to_exitcode(_wait(child, deadline)), outputs, whole
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise SystemFault(f"{argv[0]} did not end in time", hint="give it longer: --timeout S") from None
    finally:
        for reading, _ in pipes:
            os.close(reading)


def _collect(sources: Sequence[int], deadline: float) -> tuple[list[bytes], bool]:
    """All that is written to ``sources`` until their ends, each up to MAX_OUTPUT."""
    outputs, whole, opened = [bytearray() for _ in sources], True, list(sources)
    while opened:
        ready, _, _ = select.select(opened, [], [], max(deadline - time.monotonic(), 0))
        if not ready:
            raise TimeoutError
        for source in ready:
            data = os.read(source, _CHUNK)
            if not data:
                opened.remove(source)
                continue
            output = outputs[list(sources).index(source)]
            whole = whole and len(output) + len(data) <= MAX_OUTPUT
            output += data[: MAX_OUTPUT - len(output)]
    return [bytes(output) for output in outputs], whole


def _wait(child: int, deadline: float) -> int:
    """The wait status; a program may close its output and go on."""
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.01)

"""Runs a program so that nothing of it outlives us: namespaces of its own for mounts and processes, and a log."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, cast

from tdxstack.errors import NetworkFault, ProcessFailed, SystemFault, TdxStackError
from tdxstack.image.recipes import ASSETS
from tdxstack.system import paths
from tdxstack.system.process import PIPE, STDOUT, spawn

Progress = Callable[[str], None]

_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_NETWORK = (
    "Temporary failure resolving",
    "Could not resolve",
    "Could not connect",
    "Unable to connect",
    "Connection timed out",
    "Connection failed",
    "Failed to fetch",
    "Network is unreachable",
)


def require_root(what: str) -> None:
    """Refuse early where namespaces with root's mounts cannot be made.

    Raises:
        SystemFault: we are not root.
    """
    if os.geteuid() != 0:
        places = f"TDXSTACK_HOME={paths.home()} TDXSTACK_CACHE={paths.cache()}"
        raise SystemFault(f"{what} needs root", hint=f"sudo env {places} {sys.executable} -m tdxstack.cli {what}")


def contained(argv: Sequence[str]) -> list[str]:
    """``argv`` in mount and process namespaces of its own; when the first process dies, all die."""
    return [
        "unshare",
        "--mount",
        "--propagation",
        "unchanged",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "sh",
        str(ASSETS / "scripts/private.sh"),
        *argv,
    ]


def entered(tree: Path, binds: Mapping[Path, str], argv: Sequence[str]) -> list[str]:
    """``argv`` with ``tree`` as its root directory and host directories bound into it, contained."""
    pairs = [word for source, target in binds.items() for word in (str(source), target)]
    return contained(["sh", str(ASSETS / "scripts/enter.sh"), str(tree), *pairs, "--", *argv])


def clean_environment() -> dict[str, str]:
    """What a build sees of our environment: a plain PATH, and the proxies."""
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path, "LC_ALL": "C.UTF-8", **proxies()}


def proxies() -> dict[str, str]:
    """The proxies of our environment."""
    return {name: os.environ[name] for name in _PROXIES if name in os.environ}


def run_logged(argv: Sequence[str], log: Path, on_line: Progress, *, home: Path) -> None:
    """Run to the end, with all output in ``log`` (appended) and each line handed to ``on_line``.

    Interrupted, it kills the program and all that it started, and waits until they are gone.

    Raises:
        NetworkFault, SystemFault: by what the output says; the hint names the log.
    """
    environment = clean_environment() | {"HOME": str(home), "TMPDIR": str(home)}
    with log.open("ab") as stream:
        process = spawn(argv, stdout=PIPE, stderr=STDOUT, env=environment, new_session=True)
        output = cast(IO[bytes], process.stdout)
        try:
            for line in output:
                stream.write(line)
                on_line(line.decode(errors="replace").rstrip())
            code = process.wait()
        except BaseException:
            process.kill()
            # Everything that it started holds the other end: at the end of file, all are gone.
            output.read()
            process.wait()
            raise
    if code != 0:
        raise explain(argv, code, log)


def explain(argv: Sequence[str], code: int, log: Path) -> TdxStackError:
    """The error that the end of a log stands for."""
    output = log.read_text(errors="replace")[-60_000:]
    if "No space left on device" in output or "not enough free space" in output.lower():
        return SystemFault("the disk is full", hint=f"free about 2 GB (df -h {log.parent}), then run it again")
    if any(sign in output for sign in _NETWORK):
        hint = f"check the network and the package sources in /etc/apt, then run it again (log: {log})"
        return NetworkFault("the package mirror cannot be reached", hint=hint)
    return ProcessFailed(argv, code, output, hint=f"the whole log: {log}")

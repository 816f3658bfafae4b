"""The host at the other end of a ``qemu+ssh`` URI: commands there, by the URI's own user, port, key and known hosts.

URI parameters (https://libvirt.org/uri.html): ``keyfile``, ``command``, ``no_verify``, ``known_hosts``,
``known_hosts_verify``. libvirt itself heeds the latter two with ``qemu+libssh`` alone; here they hold for all.
"""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass
from urllib.parse import parse_qs, quote, unquote, urlsplit, urlunsplit

from tdxstack.errors import NetworkFault, PlatformMissing, ProcessFailed, ProcessTimeout, ProgramMissing
from tdxstack.system import paths
from tdxstack.system.files import private_directory, write_atomic
from tdxstack.system.process import Completed, run

SCHEMES = ("qemu+ssh", "qemu+libssh", "qemu+libssh2")
#: What ssh's own failures end with; every other status is the command's.
SSH_FAILED = 255
TIMEOUT = 60.0
#: Nobody is asked, and nothing is waited for longer than a person would.
PATIENCE = (
    *("-o", "BatchMode=yes", "-o", "ConnectTimeout=10"),
    *("-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=4", "-o", "LogLevel=ERROR"),
)


@dataclass(frozen=True, slots=True)
class FarEnd:
    """Where to, and how. ``options`` are ssh's, ``program`` is ssh or what the URI names in its place."""

    host: str
    user: str | None
    port: int | None
    program: str
    options: tuple[str, ...]

    @classmethod
    def of(cls, uri: str) -> FarEnd:
        """The far end of a URI with a host.

        Raises:
            PlatformMissing: that host is not reached by ssh.
        """
        parts = urlsplit(uri)
        host = parts.hostname or ""
        if parts.scheme not in SCHEMES:
            raise PlatformMissing(
                f"libvirt on {host} by {parts.scheme}: a TD's files and sockets there are reached by ssh",
                hint=f"write qemu+ssh://{host}{parts.path or '/system'}",
            )
        asked = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        user = unquote(parts.username) if parts.username else None
        return cls(host, user, parts.port, asked.get("command", "ssh"), tuple(_options(asked)))

    @property
    def name(self) -> str:
        """``user@host:port``, as far as they are given."""
        user = f"{self.user}@" if self.user else ""
        return f"{user}{self.host}" + (f":{self.port}" if self.port else "")

    def argv(self, *more: str) -> list[str]:
        """ssh to the host, with further options; a command comes last."""
        port = ["-p", str(self.port)] if self.port else []
        user = ["-l", self.user] if self.user else []
        return [self.program, *PATIENCE, *self.options, *port, *user, *more, "--", self.host]

    def shell(self, script: str, *words: str, stdin: bytes | None = None, timeout: float = TIMEOUT) -> Completed:
        """Run a POSIX shell script there with ``words`` as its arguments.

        Raises:
            NetworkFault: ssh does not get there.
            ProcessFailed, ProcessTimeout: the script failed.
        """
        command = shlex.join(["sh", "-c", script, "sh", *words])
        try:
            done = run([*self.argv("-T"), command], timeout=timeout, stdin=stdin, check=False)
        except ProcessTimeout:
            raise NetworkFault(f"{self.name}: no answer within {timeout:g} s", hint=self._hint()) from None
        if done.returncode == SSH_FAILED:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise NetworkFault(f"{self.name}: {said[-1] if said else 'ssh failed'}", hint=self._hint())
        if done.returncode != 0:
            output = (done.stderr or done.stdout).decode(errors="replace")
            raise ProcessFailed([f"a command on {self.name}"], done.returncode, output, hint=self._hint())
        return done

    def program_path(self, name: str) -> str:
        """A program's absolute path there.

        Raises:
            ProgramMissing: it is not on that host.
        """
        found = self.shell('PATH="$PATH:/usr/sbin:/sbin"; command -v -- "$1" || true', name).text.strip()
        if not found.startswith("/"):
            raise ProgramMissing(f"{name} on {self.name}")
        return found

    def _hint(self) -> str:
        return f"{shlex.join(self.argv())} true   (keys only, nobody is asked for a password)"


def _options(asked: dict[str, str]) -> list[str]:
    words: list[str] = []
    if keyfile := asked.get("keyfile"):
        words += ["-i", keyfile, "-o", "IdentitiesOnly=yes"]
    if known_hosts := asked.get("known_hosts"):
        words += ["-o", f"UserKnownHostsFile={known_hosts}"]
    verify = asked.get("known_hosts_verify", "normal")
    if asked.get("no_verify") == "1" or verify == "ignore":
        words += ["-o", "StrictHostKeyChecking=no"]
    elif verify == "auto":
        words += ["-o", "StrictHostKeyChecking=accept-new"]
    return words


def dialled(uri: str) -> str:
    """The URI that libvirt is to open for ``uri``: by our own ssh, which asks nobody and does not wait for ever.

    Raises:
        PlatformMissing: another host that is not reached by ssh.
    """
    parts = urlsplit(uri)
    if parts.hostname is None:
        return uri
    end = FarEnd.of(uri)
    if parts.scheme != "qemu+ssh":
        return uri
    text = f'#!/bin/sh\nexec {shlex.join([end.program, *PATIENCE, *end.options])} "$@"\n'
    path = private_directory(paths.home() / "ssh") / f"far-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if not path.exists():
        write_atomic(path, text, mode=0o700)
    kept = [pair for pair in parts.query.split("&") if pair and pair.partition("=")[0] not in ("command", "no_tty")]
    query = "&".join([*kept, "no_tty=1", f"command={quote(str(path), safe='/')}"])
    return urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))

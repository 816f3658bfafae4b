"""Another host, as far as one machine can be two: a libvirtd and an sshd in a mount name space of their own.

/mnt is another file system there, with the guest's files: what a TD names lies on the far host and not here. Its
TDXSTACK_HOME is there too. The network is shared, so sshd listens on a high port of 127.0.0.1.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from libvirt_daemon import Libvirtd
from tiny_guest import TinyGuest

SSHD = shutil.which("sshd", path="/usr/sbin:/sbin")
START_SECONDS = 90.0
FILES = Path("/mnt")
CONFIG = """Port @PORT@
ListenAddress 127.0.0.1
HostKey @ROOT@/host_key
AuthorizedKeysFile @ROOT@/key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
SetEnv TDXSTACK_HOME=/mnt/home
"""


@dataclass
class FarHost:
    """The other host. ``sshd`` may be killed and started again."""

    daemon: Libvirtd
    root: Path
    port: int
    sshd: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def uri(self) -> str:
        parameters = {
            "socket": self.daemon.socket,
            "keyfile": self.root / "key",
            "known_hosts": self.root / "known_hosts",
        }
        query = "&".join(f"{name}={value}" for name, value in parameters.items())
        return f"qemu+ssh://root@127.0.0.1:{self.port}/system?{query}"

    def inside(self, *words: str, stdin: bytes = b"") -> bytes:
        """Run a command there."""
        assert self.daemon.process is not None
        argv = ["nsenter", "--mount", f"--target={self.daemon.process.pid}", *words]
        return subprocess.run(argv, check=True, capture_output=True, timeout=60, input=stdin).stdout

    def start_sshd(self) -> None:
        assert self.daemon.process is not None and SSHD is not None
        argv = ["nsenter", "--mount", f"--target={self.daemon.process.pid}", SSHD, "-D", "-e"]
        with (self.root / "sshd.log").open("ab") as log:
            self.sshd = subprocess.Popen([*argv, "-f", str(self.root / "sshd_config")], stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while not self._listens():
            assert self.sshd.poll() is None and time.monotonic() < deadline, (self.root / "sshd.log").read_text()
            time.sleep(0.05)

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 2):
            return True
        return False

    def cut(self) -> None:
        """End sshd with every connection through it, as a broken network would."""
        assert self.sshd is not None
        for child in self._children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self.sshd.wait()

    def _children(self) -> list[int]:
        """sshd and all that descends from it: each connection has processes of its own."""
        assert self.sshd is not None
        found = [self.sshd.pid]
        for pid in found:
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    found += [int(word) for word in task.read_text().split()]
        return found

    def take(self, guest: TinyGuest) -> None:
        """Bring the guest's files there."""
        self.inside("mount", "-t", "tmpfs", "far", str(FILES))
        for name, path in (("vmlinuz", guest.kernel), ("initrd", guest.initrd), ("OVMF.fd", guest.firmware)):
            self.inside("sh", "-c", f"cat >{FILES}/{name}", stdin=path.read_bytes())
        self.inside("sh", "-c", f"head -c 1M /dev/zero >{FILES}/disk.raw")


def _prepare(root: Path, port: int) -> None:
    for name in ("key", "host_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(root / name)], check=True)
    public = (root / "host_key.pub").read_text().split()
    (root / "known_hosts").write_text(f"[127.0.0.1]:{port} {public[0]} {public[1]}\n")
    (root / "sshd_config").write_text(CONFIG.replace("@ROOT@", str(root)).replace("@PORT@", str(port)))
    Path("/run/sshd").mkdir(exist_ok=True)


@pytest.fixture(scope="session")
def far_host(libvirtd: Libvirtd, tiny_guest: TinyGuest) -> Iterator[FarHost]:
    """One other host for the session."""
    if SSHD is None or shutil.which("nc") is None:
        pytest.skip("needs sshd and nc (openssh-server, netcat-openbsd: ./scripts/setup-os.sh --tests)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    root = libvirtd.root / "far"
    root.mkdir(mode=0o700)
    _prepare(root, port)
    host = FarHost(libvirtd, root, port)
    host.take(tiny_guest)
    host.start_sshd()
    try:
        yield host
    finally:
        host.cut()

"""A real libvirtd of the tests' own: in a mount name space where its directories are private ones.

Its /dev has no kvm: where that node exists and does not work, libvirt asks QEMU for its capabilities for minutes. Its
socket is outside of that name space, so that any process reaches it; QEMUs that it starts see the same files as
everybody else. It runs neither under systemd nor on the machine's own libvirt directories.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

START_SECONDS = 60.0
USER, UID = "libvirt-qemu", 64055
#: What libvirtd has compiled in, each behind a private directory.
DIRECTORIES = ("/etc/libvirt", "/var/lib/libvirt", "/var/cache/libvirt", "/var/log/libvirt", "/run/libvirt")
SCRIPT = """set -e
for place in @PLACES@; do mkdir -p $place; mount --bind "$0$place" $place; done
for node in null zero full random urandom tty ptmx; do
    touch "$0/dev/$node"; mount --bind /dev/$node "$0/dev/$node"
done
for place in pts shm; do mkdir -p "$0/dev/$place"; mount --rbind /dev/$place "$0/dev/$place"; done
mount --rbind "$0/dev" /dev
mount --bind "$0/passwd" /etc/passwd
mount --bind "$0/group" /etc/group
exec libvirtd --config "$0/libvirtd.conf" --pid-file "$0/pid"
"""
DAEMON = """unix_sock_dir = "@ROOT@/sock"
auth_unix_rw = "none"
auth_unix_ro = "none"
log_outputs = "3:file:@ROOT@/libvirtd.log"
"""
QEMU = """security_driver = "none"
cgroup_controllers = [ ]
namespaces = [ ]
stdio_handler = "file"
"""


@dataclass
class Libvirtd:
    """The daemon, which tests may kill and start again."""

    root: Path
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def socket(self) -> Path:
        return self.root / "sock" / "libvirt-sock"

    @property
    def uri(self) -> str:
        return f"qemu+unix:///system?socket={self.socket}"

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        script = SCRIPT.replace("@PLACES@", " ".join(DIRECTORIES))
        with (self.root / "output").open("ab") as output:
            self.process = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", script, str(self.root)], stdout=output, stderr=output
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            said = (self.root / "output").read_text() + self.log()
            assert self.process.poll() is None and time.monotonic() < deadline, said[-2000:]
            time.sleep(0.05)

    def answers(self) -> bool:
        return self.socket.exists() and self.virsh("version", check=False).returncode == 0

    def kill(self) -> None:
        """kill -9, as the kernel's memory killer would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def virsh(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        argv = ["virsh", "-q", "-c", self.uri, *words]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0 or not check, done.stderr
        return done

    def log(self) -> str:
        path = self.root / "libvirtd.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def close(self) -> None:
        """End every domain and the daemon."""
        with contextlib.suppress(subprocess.SubprocessError, OSError, AssertionError):
            if not self.answers():
                self.start()
            for name in self.virsh("list", "--name", check=False).stdout.split():
                self.virsh("destroy", name, check=False)
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)


def _prepare(root: Path) -> None:
    for place in (*DIRECTORIES, "/sock", "/dev"):
        (root / place[1:]).mkdir(parents=True)
    user = f"{USER}:x:{UID}:{UID}::/var/lib/libvirt:/usr/sbin/nologin"
    for name, line in (("passwd", user), ("group", f"{USER}:x:{UID}:")):
        kept = [one for one in Path(f"/etc/{name}").read_text().splitlines() if not one.startswith(f"{USER}:")]
        (root / name).write_text("\n".join([*kept, line]) + "\n")
    (root / "libvirtd.conf").write_text(DAEMON.replace("@ROOT@", str(root)))
    (root / "etc/libvirt/qemu.conf").write_text(QEMU)


@pytest.fixture(scope="session")
def libvirtd() -> Iterator[Libvirtd]:
    """One libvirtd for the session; it must answer again when a test that killed it ends."""
    if os.geteuid() != 0 or shutil.which("libvirtd") is None:
        pytest.skip("libvirtd in a mount name space needs root, and libvirtd (./scripts/setup-os.sh --tests)")
    root = Path(tempfile.mkdtemp(prefix="tdxl-"))
    root.chmod(0o711)
    _prepare(root)
    daemon = Libvirtd(root)
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.close()
        shutil.rmtree(root, ignore_errors=True)

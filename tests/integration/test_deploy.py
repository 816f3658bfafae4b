"""Deployment over ssh to nodes in network namespaces, each with a root tree of its own; one dies in the middle."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tdxstack.cli.main import main

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1200)]

SSHD = shutil.which("sshd", path="/usr/sbin:/sbin")
CONFIG = """Port 22
ListenAddress {address}
HostKey {place}/host_key
PidFile {place}/pid
AuthorizedKeysFile {home}/key.pub
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
Subsystem sftp internal-sftp
"""
OS_RELEASE = "ID=ubuntu\nID_LIKE=debian\nVERSION_ID=25.10\n"
GRUB = 'GRUB_CMDLINE_LINUX="quiet"\n'


def _run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


@dataclass
class Server:
    """An sshd in a network namespace, with a root tree."""

    number: int
    place: Path
    home: Path

    @property
    def namespace(self) -> str:
        return f"tdxd{os.getpid()}-{self.number}"

    @property
    def link(self) -> str:
        """The host's end of the veth pair; 15 bytes at most."""
        return f"tdxo{os.getpid() % 10000}{self.number}"

    @property
    def address(self) -> str:
        return f"10.98.{self.number}.2"

    @property
    def root(self) -> Path:
        return self.place / "root"

    @property
    def line(self) -> str:
        program = f"{self.root}/usr/local/lib/tdxstack/tdxctl.pyz"
        python = Path(sys.executable).resolve()
        more = f"program={program} command={self.root}/bin/tdxctl python={python}"
        return f"root@{self.address} root={self.root} become=false {more}"

    def build(self) -> None:
        (self.root / "etc/default").mkdir(parents=True)
        (self.root / "bin").mkdir()
        (self.root / "etc/os-release").write_text(OS_RELEASE)
        (self.root / "etc/default/grub").write_text(GRUB)
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.place / "host_key"))
        (self.place / "sshd_config").write_text(CONFIG.format(address=self.address, place=self.place, home=self.home))
        inside = f"tdxi{self.number}"
        _run("ip", "netns", "add", self.namespace)
        _run("ip", "link", "add", self.link, "type", "veth", "peer", "name", inside, "netns", self.namespace)
        _run("ip", "address", "add", f"10.98.{self.number}.1/24", "dev", self.link)
        _run("ip", "link", "set", self.link, "up")
        for command in (
            ("address", "add", f"{self.address}/24", "dev", inside),
            ("link", "set", inside, "up"),
            ("link", "set", "lo", "up"),
        ):
            _run("ip", "-n", self.namespace, *command)

    def start(self) -> None:
        assert SSHD is not None
        _run("ip", "netns", "exec", self.namespace, SSHD, "-f", str(self.place / "sshd_config"))

    def kill(self) -> None:
        """End everything in the namespace at once, as a power failure does."""
        listed = subprocess.run(["ip", "netns", "pids", self.namespace], check=False, capture_output=True, text=True)
        for pid in listed.stdout.split():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue

    def remove(self) -> None:
        self.kill()
        # The kernel takes a deleted namespace apart later; the next test uses the same name at once.
        subprocess.run(["ip", "link", "delete", self.link], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "delete", self.namespace], check=False, capture_output=True)

    @property
    def installed(self) -> bool:
        return "kvm_intel.tdx=1" in (self.root / "etc/default/grub").read_text()


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[Server]]:
    pytest.importorskip("ansible_runner")
    if SSHD is None or os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root, sshd (openssh-server) and ip (iproute2)")
    Path("/run/sshd").mkdir(exist_ok=True)
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key"))
    made: list[Server] = []
    try:
        for number in (1, 2, 3):
            server = Server(number, tmp_path / f"node{number}", tmp_path)
            made.append(server)
            server.build()
            server.start()
        known = "".join(f"{one.address} {(one.place / 'host_key.pub').read_text()}" for one in made)
        (tmp_path / "known_hosts").write_text(known)
        lines = (f"IdentityFile {tmp_path}/key", f"UserKnownHostsFile {tmp_path}/known_hosts", "IdentitiesOnly yes")
        (tmp_path / "ssh_config").write_text("Host *\n" + "".join(f"  {line}\n" for line in lines))
        (tmp_path / "hosts").write_text("\n".join(one.line for one in made) + "\n")
        yield made
    finally:
        for server in made:
            server.remove()


def _deploy(home: Path, verb: str, *more: str) -> int:
    return main(
        ["deploy", verb, "-i", str(home / "hosts"), "--ssh-config", str(home / "ssh_config"), "--json", *more]
    )


def _outcomes(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [node["outcome"] for node in json.loads(capsys.readouterr().out)["nodes"]]


def test_rolling_over_nodes_one_of_which_dies(
    servers: list[Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _deploy(tmp_path, "check") == 0
    assert _outcomes(capsys) == ["unchanged"] * 3
    assert _deploy(tmp_path, "apply", "--dry-run") == 0
    shown = capsys.readouterr()
    assert "kvm_intel.tdx=1" in shown.err
    assert not any(server.installed for server in servers)

    stop = threading.Event()
    doomed = servers[1]

    def kill_when_it_begins() -> None:
        program = doomed.root / "usr/local/lib/tdxstack/tdxctl.pyz"
        program.unlink()
        while not program.exists() and not stop.is_set():
            time.sleep(0.01)
        doomed.kill()

    watcher = threading.Thread(target=kill_when_it_begins)
    watcher.start()
    try:
        code = _deploy(tmp_path, "apply", "--yes", "--serial", "1")
    finally:
        stop.set()
        watcher.join()
    assert code == 1
    assert _outcomes(capsys) == ["changed", "unreachable", "changed"]
    assert [server.installed for server in servers] == [True, False, True]

    doomed.start()
    assert _deploy(tmp_path, "apply", "--yes", "--only", "kernel", "--only", "modules") == 0
    assert [server.installed for server in servers] == [True, True, True]
    again = _outcomes(capsys)
    assert again[1] == "changed"
    assert _deploy(tmp_path, "apply", "--yes", "--only", "modules") == 0
    assert _outcomes(capsys) == ["unchanged"] * 3


def test_nodes_that_cannot_be_reached_are_told_first(
    servers: list[Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    servers[2].kill()
    assert _deploy(tmp_path, "check") == 1
    assert _outcomes(capsys) == ["unchanged", "unchanged", "unreachable"]
    (tmp_path / "key").write_text("no key")
    assert _deploy(tmp_path, "check", "--limit", f"root@{servers[0].address}") == 1
    assert "ssh-copy-id" in capsys.readouterr().out


def test_guests_and_status(servers: list[Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "hosts").write_text(f"[guests]\n{servers[0].line}\n")
    assert _deploy(tmp_path, "apply", "--yes") == 0
    assert _outcomes(capsys) == ["changed"]
    assert "tdxctl.pyz" in (servers[0].root / "bin/tdxctl").read_text()
    assert _deploy(tmp_path, "status") == 1
    document = json.loads(capsys.readouterr().out)
    assert document["nodes"][0]["reason"].startswith("not ready: cpu.")

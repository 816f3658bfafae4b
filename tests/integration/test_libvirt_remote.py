"""TDs on another host's libvirtd, by ssh: their lives, and what happens when the way there breaks."""

from __future__ import annotations

import os
import shlex
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from far_host import FILES, FarHost, far_host
from integration.conftest import Tdxctl, image_with
from libvirt_daemon import libvirtd
from libvirt_tds import again
from td_home import BOOT_TIMEOUT, home, until
from tdxstack.errors import ExitCode, NetworkFault, PlatformMissing, TdxStackError, UsageError
from tdxstack.system.process import first_bytes
from tdxstack.vm import changes, events, lifecycle
from tdxstack.vm.error_document import RemoteError
from tdxstack.vm.libvirt import observed
from tdxstack.vm.libvirt.domains import uuid_of
from tdxstack.vm.libvirt.far_site import FarSite
from tdxstack.vm.record import TdRecord
from tdxstack.vm.spec import TdSpec, Via, VmType
from tdxstack.vm.state import State
from tiny_guest import TinyGuest, tiny_guest

__all__ = ["far_host", "home", "libvirtd", "tiny_guest"]
pytestmark = pytest.mark.integration


@pytest.fixture
def spec(far_host: FarHost, home: Path, tiny_guest: TinyGuest) -> TdSpec:
    return TdSpec(
        name="away",
        type=VmType.EFI,
        kernel=FILES / "vmlinuz",
        initrd=FILES / "initrd",
        firmware=FILES / "OVMF.fd",
        image=FILES / "disk.raw",
        cmdline=tiny_guest.cmdline,
        memory=256 << 20,
        via=Via.LIBVIRT,
        connect=far_host.uri,
    )


def _directory(name: str) -> str:
    return str(FILES / "home/remote" / uuid_of(name))


def _there(host: FarHost, name: str = "away") -> set[str]:
    """The files of a TD's directory on the far host."""
    return set(
        host.inside("sh", "-c", f"cd {_directory(name)} 2>/dev/null && find . -type f || true").decode().split()
    )


def test_a_machine_on_another_host(spec: TdSpec, far_host: FarHost, home: Path) -> None:
    command = Tdxctl(home)
    lifecycle.create(spec)
    assert far_host.daemon.virsh("domstate", "away").stdout.strip() == "shut off"
    record = lifecycle.start("away")
    assert (record.state, record.run.qemu_pid) == (State.RUNNING, 0)
    assert lifecycle.wait_ready("away", BOOT_TIMEOUT)["version"] == "tiny"
    assert "./overlay.qcow2" in _there(far_host) and not record.place.overlay.exists()
    assert "tiny guest: ready" in command.ok("td", "logs", "away")
    assert command.json("td", "list")["tds"][0]["state"] == "running"
    way = FarSite.of(spec.connect).end.argv("-W", f"127.0.0.1:{record.run.ssh_port}")
    assert first_bytes(["sh", "-c", f"echo hello | {shlex.join(way)}"], 5, timeout=30) == b"hello", "port 22 echoes"

    assert lifecycle.suspend("away").state is State.PAUSED
    assert lifecycle.resume("away").state is State.RUNNING
    far_host.daemon.virsh("suspend", "away")
    until("away", State.PAUSED)
    far_host.daemon.virsh("resume", "away")
    until("away", State.RUNNING)
    assert '"STOP"' in events.path("away").read_text()
    changes.snapshot_create("away", "booted")
    assert {"./snapshots/booted/memory", "./snapshots/booted/overlay.qcow2"} <= _there(far_host)

    assert changes.save("away").state is State.SAVED
    assert "./saved/memory" in _there(far_host)
    lifecycle.start("away")
    assert lifecycle.call_guest("away", "ping", timeout=30) == {"pong": True}
    assert "./saved/memory" not in _there(far_host)
    assert changes.reboot("away", "agent").state is State.RUNNING
    lifecycle.stop("away", "force")
    changes.snapshot_revert("away", "booted")
    lifecycle.start("away")
    assert lifecycle.stop("away", "agent").state is State.STOPPED
    changes.clone("away", "twin")
    assert "./overlay.qcow2" in _there(far_host, "twin")
    assert changes.change("twin", {"memory": "192M", "vcpus": 2, "autostart": True}).spec.vcpus == 2
    assert "enable" in far_host.daemon.virsh("dominfo", "twin").stdout.split("Autostart:")[1].split("\n")[0]
    for name in ("away", "twin"):
        lifecycle.delete(name)
        assert _there(far_host, name) == set()
    assert far_host.daemon.virsh("list", "--all", "--name").stdout.strip() == ""


@pytest.mark.slow
def test_the_way_there_breaks(spec: TdSpec, far_host: FarHost) -> None:
    lifecycle.create(replace(spec, image=None))
    record = lifecycle.start("away")
    assert lifecycle.wait_ready("away", BOOT_TIMEOUT)["version"] == "tiny"
    far_host.cut()
    try:
        with pytest.raises(RemoteError, match="libvirt"):
            _until_it_fails(lambda: lifecycle.suspend("away"))
        assert lifecycle.status("away").state is State.RUNNING, "nothing says that it has ended"
        with pytest.raises(TdxStackError):
            lifecycle.create(replace(spec, name="other"))
    finally:
        far_host.start_sshd()
    again(lambda: lifecycle.suspend("away"))
    lifecycle.resume("away")
    again(lambda: lifecycle.call_guest("away", "ping", timeout=5))

    os.kill(record.run.supervisor_pid, signal.SIGKILL)
    deadline = time.monotonic() + 90
    while lifecycle.status("away").reason != observed.UNWATCHED:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert lifecycle.suspend("away").state is State.PAUSED, "another supervisor has taken it over"
    assert lifecycle.stop("away", "force").state is State.STOPPED


@pytest.mark.slow
def test_ways_into_a_machine_on_another_host(far_host: FarHost, home: Path, tdxctl: Tdxctl, tmp_path: Path) -> None:
    """gdb, ssh, a command, files and the console of a Linux that runs there."""
    image, command = image_with(tdxctl, "direct"), Tdxctl(home)
    kernel = image["kernel"]["path"]
    words = ["--type=efi", "--image", image["disk"]["path"], "--kernel", kernel, "--initrd", image["initrd"]["path"],
             "--cmdline", image["cmdline"], "--firmware", str(FILES / "OVMF.fd"), "--memory=1G"]  # fmt: skip
    command.ok("td", "create", "far", *words, "--via=libvirt", "--connect", far_host.uri)
    command.ok("td", "start", "far", "--debug")
    refused = command("td", "gdb", "far", "--batch")
    assert refused.returncode == ExitCode.UNSUPPORTED and "scp" in refused.stderr and "--kernel" in refused.stderr
    steps = ("--ex", "continue", "--ex", "print $pc == (long) &start_kernel")
    assert "$1 = 1" in command.ok("td", "gdb", "far", "--kernel", kernel, "--batch", *steps, timeout=600)

    command.ok("td", "wait", "far", "--for", "ssh", "--timeout", "600", timeout=660)
    assert command.ok("td", "exec", "far", "--", "uname", "-s") == "Linux\n"
    assert command("td", "exec", "far", "--", "sh", "-c", "exit 7").returncode == 7
    assert command.ok("td", "ssh", "far", "--", "cat /proc/cmdline").split()[-1] == "nokaslr"
    (tmp_path / "one").write_bytes(bytes(range(256)) * 1000)
    command.ok("td", "copy", "far", str(tmp_path / "one"), ":/root/")
    command.ok("td", "copy", "far", ":/root/one", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == (tmp_path / "one").read_bytes()

    with command.beside("td", "console", "far") as console:
        until_connected = time.monotonic() + 60
        while command("td", "console", "far").returncode == 0:
            assert time.monotonic() < until_connected, "another one may not connect while this one is"
        command.ok("td", "exec", "far", "--", "sh", "-c", "echo over the console >/dev/ttyS0")
        time.sleep(3)
        said, _ = console.communicate("\x1d", timeout=60)
    assert "over the console" in said
    command.ok("td", "delete", "far", "--yes")
    assert _there(far_host, "far") == set()


def test_what_cannot_run_there_is_said_before(spec: TdSpec, far_host: FarHost, home: Path) -> None:
    command = Tdxctl(home)
    create = ("td", "create", "td", "--via", "libvirt", "--connect", far_host.uri, "--kernel")
    refused = command(*create, str(FILES / "vmlinuz"))
    assert refused.returncode == ExitCode.UNSUPPORTED
    assert "cannot serve a machine on root@127.0.0.1" in refused.stderr and "ssh 127.0.0.1 tdxctl" in refused.stderr
    missing = command(*create, "/nonexistent/vmlinuz", "--type", "efi")
    assert missing.returncode == ExitCode.USAGE and "no such file on root@127.0.0.1" in missing.stderr
    with pytest.raises(PlatformMissing, match="offers no TDX"):
        lifecycle.create(replace(spec, type=VmType.TD, platform="tdx"))
    with pytest.raises(PlatformMissing, match="by qemu"):
        lifecycle.create(replace(spec, connect="qemu+tls://127.0.0.1/system"))
    with pytest.raises(UsageError, match="no such file"):
        lifecycle.create(replace(spec, image=Path("/nonexistent")))
    with pytest.raises(NetworkFault, match="Connection refused"):
        lifecycle.create(replace(spec, connect="qemu+ssh://127.0.0.1:1/system"))
    assert lifecycle.list_all() == []
    predicted = command("td", "create", "plain", "--via", "libvirt", "--connect", far_host.uri, "--type", "efi",
                        "--kernel", str(FILES / "vmlinuz"), "--firmware", str(FILES / "OVMF.fd"))  # fmt: skip
    assert predicted.returncode == 0, predicted.stderr
    assert command("measure", "predict", "--td", "plain").returncode == ExitCode.UNSUPPORTED
    assert "<loader" in command.ok("td", "start", "plain", "--print-xml")


def _until_it_fails(action: Callable[[], TdRecord]) -> None:
    for _ in range(100):
        action()
        lifecycle.resume("away")
        time.sleep(0.1)

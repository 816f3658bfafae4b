"""TDs driven by a real libvirtd: their lives, and what happens when parts of it die or somebody else meddles."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from integration.conftest import Tdxctl, run_by_the_agent
from libvirt_daemon import Libvirtd, libvirtd
from td_home import BOOT_TIMEOUT, gone, home, until
from tdxstack.errors import StateError, SystemFault, UsageError
from tdxstack.vm import changes, events, lifecycle
from tdxstack.vm.control import RemoteError
from tdxstack.vm.libvirt import domains, observed
from tdxstack.vm.record import TdRecord
from tdxstack.vm.spec import TdSpec, Via, VmType
from tdxstack.vm.state import State
from tiny_guest import TinyGuest, tiny_guest

__all__ = ["home", "libvirtd", "tiny_guest"]
pytestmark = pytest.mark.integration
Define = Callable[..., TdRecord]


@pytest.fixture
def define(libvirtd: Libvirtd, home: Path, tiny_guest: TinyGuest) -> Define:
    def make(name: str = "demo", **settings: object) -> TdRecord:
        spec = TdSpec(
            name=name,
            type=VmType.EFI,
            kernel=tiny_guest.kernel,
            initrd=tiny_guest.initrd,
            cmdline=tiny_guest.cmdline,
            firmware=tiny_guest.firmware,
            memory=256 << 20,
            via=Via.LIBVIRT,
            connect=libvirtd.uri,
        )
        return lifecycle.create(replace(spec, **settings))  # type: ignore[arg-type]

    return make


def _state(libvirtd: Libvirtd, name: str = "demo") -> str:
    done = libvirtd.virsh("domstate", name, check=False)
    return done.stdout.strip() or done.stderr.strip()


def test_a_trust_domain_from_definition_to_deletion(define: Define, libvirtd: Libvirtd, tmp_path: Path) -> None:
    image = tmp_path / "disk.raw"
    image.write_bytes(bytes(1 << 20))
    define(type=VmType.TD, image=image)
    assert _state(libvirtd) == "shut off"
    record = lifecycle.start("demo")
    assert (record.state, _state(libvirtd)) == (State.RUNNING, "running")
    assert lifecycle.wait_ready("demo", BOOT_TIMEOUT)["version"] == "tiny"
    before = lifecycle.registers("demo")
    assert {before[f"rtmr{index}"] for index in range(3)}.isdisjoint({"00" * 48}), "the tap sees libvirt's QEMU too"

    libvirtd.virsh("suspend", "demo")
    until("demo", State.PAUSED)
    libvirtd.virsh("resume", "demo")
    until("demo", State.RUNNING)
    changes.snapshot_create("demo", "booted")
    assert lifecycle.call_guest("demo", "ping") == {"pong": True}
    assert "tiny guest: ready" in record.place.console_log.read_text(errors="replace")
    assert changes.save("demo").state is State.SAVED
    assert _state(libvirtd) == "shut off"
    assert lifecycle.start("demo").state is State.RUNNING
    assert lifecycle.call_guest("demo", "ping", timeout=30) == {"pong": True}
    assert lifecycle.registers("demo") == before

    assert lifecycle.stop("demo", "force").state is State.STOPPED
    gone(record)
    changes.snapshot_revert("demo", "booted")
    lifecycle.start("demo")
    assert lifecycle.call_guest("demo", "ping", timeout=30) == {"pong": True}
    assert lifecycle.registers("demo") == before
    lifecycle.delete("demo", force=True)
    assert "failed to get domain" in _state(libvirtd)


def test_a_linux_td_is_attested_and_reached(tdxctl: Tdxctl, libvirtd: Libvirtd, tmp_path: Path) -> None:
    """The tables are those of libvirt's machine: predicted from the arguments that libvirt gave to QEMU."""
    if "debian-13" not in tdxctl.ok("image", "list"):
        tdxctl.ok("image", "build", "debian-13", timeout=900)
    tdxctl.ok("td", "create", "under-libvirt", "--image", "debian-13", "--via", "libvirt", "--connect", libvirtd.uri)
    try:
        early = tdxctl.json("measure", "predict", "--td", "under-libvirt")
        assert early["rtmr"][0] is None, "libvirt has yet to choose the slots"
        tdxctl.ok("td", "start", "under-libvirt", "--wait", timeout=BOOT_TIMEOUT)
        attested = tdxctl.json("attest", "under-libvirt", timeout=BOOT_TIMEOUT)
        assert attested["verdict"] == "accepted"
        predicted = tdxctl.json("measure", "predict", "--td", "under-libvirt")
        assert predicted["rtmr"][0] == attested["rtmr"][0]["quoted"]
        assert "debian" in tdxctl.ok("td", "ssh", "under-libvirt", "--", "cat", "/etc/os-release")
        (tmp_path / "there").write_bytes(os.urandom(1 << 16))
        tdxctl.ok("td", "copy", "under-libvirt", str(tmp_path / "there"), ":/root/there")
        tdxctl.ok("td", "copy", "under-libvirt", ":/root/there", str(tmp_path / "back"))
        assert (tmp_path / "back").read_bytes() == (tmp_path / "there").read_bytes()
        assert tdxctl("td", "exec", "under-libvirt", "--", "sh", "-c", "exit 7").returncode == 7
        run_by_the_agent(tdxctl, "under-libvirt")
        tdxctl.ok("td", "reboot", "under-libvirt", "--mode", "agent", timeout=BOOT_TIMEOUT)
        tdxctl.ok("td", "wait", "under-libvirt", "--for", "ssh", timeout=BOOT_TIMEOUT)
        assert tdxctl.json("td", "show", "under-libvirt")["run"]["boots"] == 1
        assert (
            tdxctl.json("td", "stop", "under-libvirt", "--mode", "acpi", timeout=BOOT_TIMEOUT)["state"] == "stopped"
        )
        assert _state(libvirtd, "under-libvirt") == "shut off"
    finally:
        tdxctl("td", "delete", "under-libvirt", "--yes")


def test_what_others_do_through_libvirt_is_noticed(define: Define, libvirtd: Libvirtd) -> None:
    define()
    lifecycle.start("demo")
    libvirtd.virsh("destroy", "demo")
    assert until("demo", State.STOPPED).reason == "it was destroyed through libvirt"

    libvirtd.virsh("undefine", "demo")
    assert lifecycle.settled("demo").reason == observed.UNDEFINED
    record = lifecycle.start("demo")
    libvirtd.virsh("undefine", "demo")
    os.kill(record.run.qemu_pid, signal.SIGKILL)
    assert "QEMU ended unexpectedly" in (until("demo", State.FAILED).reason or "")
    gone(record)
    told = events.path("demo").read_text()
    assert "UNDEFINED" in told

    changes.change("demo", {"memory": "192M"})
    libvirtd.virsh("start", "demo", check=False)
    assert _state(libvirtd) == "shut off", "its sockets are made by td start"


def test_a_killed_supervisor(define: Define, libvirtd: Libvirtd) -> None:
    define()
    define("td", type=VmType.TD)
    plain, bound = lifecycle.start("demo"), lifecycle.start("td")
    for record in (plain, bound):
        os.kill(record.run.supervisor_pid, signal.SIGKILL)
    record = until("demo", State.RUNNING)
    assert _state(libvirtd) == "running", "a machine without a session outlives its supervisor"
    assert lifecycle.suspend("demo").state is State.PAUSED, "another supervisor has taken over"
    adopted = lifecycle.status("demo")
    assert adopted.run.supervisor_pid != record.run.supervisor_pid
    assert adopted.run.qemu_pid == plain.run.qemu_pid
    os.kill(adopted.run.supervisor_pid, signal.SIGTERM)
    libvirtd.virsh("resume", "demo")
    assert lifecycle.stop("demo", "force").state is State.STOPPED

    failed = until("td", State.FAILED)
    assert failed.reason == observed.ENDED_WITH_SUPERVISOR
    assert _state(libvirtd, "td") == "shut off", "a TD without its platform's session is no TD"
    assert lifecycle.start("td").state is State.RUNNING


def test_a_killed_libvirtd(define: Define, libvirtd: Libvirtd) -> None:
    define()
    define("other")
    record, other = lifecycle.start("demo"), lifecycle.start("other")
    libvirtd.kill()
    try:
        os.kill(other.run.qemu_pid, signal.SIGKILL)
        assert "libvirt was away" in (until("other", State.FAILED).reason or "")
        assert lifecycle.status("demo").state is State.RUNNING
        with pytest.raises(RemoteError, match="does not answer") as caught:
            lifecycle.suspend("demo")
        assert "systemctl start libvirtd" in (caught.value.hint or "")
        with pytest.raises(RemoteError, match="libvirt"):
            lifecycle.start("other")
        assert lifecycle.status("demo").run.qemu_pid == record.run.qemu_pid
    finally:
        libvirtd.start()
    _again(lambda: lifecycle.suspend("demo"))
    assert _state(libvirtd) == "paused"
    assert lifecycle.stop("demo", "force").state is State.STOPPED
    assert lifecycle.start("other").state is State.RUNNING


def _again(action: Callable[[], TdRecord]) -> None:
    """Once the supervisor has found libvirtd again."""
    import time

    for _ in range(100):
        try:
            action()
        except RemoteError:
            time.sleep(0.1)
        else:
            return
    action()


def test_a_domain_of_somebody_elses_and_no_libvirt(
    define: Define, libvirtd: Libvirtd, tiny_guest: TinyGuest, home: Path
) -> None:
    xml = "<domain type='qemu'><name>demo</name><memory>65536</memory><os><type>hvm</type></os></domain>"
    home.mkdir(exist_ok=True)
    (home / "other.xml").write_text(xml)
    libvirtd.virsh("define", str(home / "other.xml"))
    try:
        with pytest.raises(SystemFault, match="already exists with uuid") as caught:
            define()
        assert "list --all" in (caught.value.hint or "")
        assert lifecycle.list_all() == []
    finally:
        libvirtd.virsh("undefine", "demo")
    with pytest.raises(SystemFault, match="Failed to connect socket"):
        define("third", connect="qemu+unix:///system?socket=/nonexistent/socket")
    with pytest.raises(UsageError, match="no URI of libvirt's QEMU driver"):
        define("fourth", connect="xen:///")


def test_transient_and_clone(define: Define, libvirtd: Libvirtd) -> None:
    define("brief", transient=True)
    assert "failed to get domain" in _state(libvirtd, "brief")
    lifecycle.start("brief")
    assert _state(libvirtd, "brief") == "running"
    with pytest.raises(StateError, match="cannot start while running"):
        lifecycle.start("brief")
    lifecycle.stop("brief", "force")
    assert lifecycle.list_all() == []
    assert "failed to get domain" in _state(libvirtd, "brief")

    define(autostart=True)
    assert "enable" in libvirtd.virsh("dominfo", "demo").stdout.split("Autostart:")[1].split("\n")[0]
    changes.clone("demo", "copy")
    assert _state(libvirtd, "copy") == "shut off"
    assert domains.uuid_of("copy") in libvirtd.virsh("domuuid", "copy").stdout

"""TDs driven by a real libvirtd: their lives, and what happens when parts of it die or somebody else meddles."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from integration.conftest import Tdxctl, run_by_the_agent
from libvirt_daemon import Libvirtd, libvirtd
from libvirt_tds import Define, again, define
from td_home import BOOT_TIMEOUT, PortTaker, gone, home, taken_up_on_another_port, until
from tdxstack.errors import StateError, SystemFault, UsageError
from tdxstack.vm import changes, events, lifecycle
from tdxstack.vm import record as records
from tdxstack.vm.error_document import RemoteError
from tdxstack.vm.libvirt import domains, observed
from tdxstack.vm.spec import Accelerator, VmType
from tdxstack.vm.state import State
from tiny_guest import TinyGuest, tiny_guest

__all__ = ["define", "home", "libvirtd", "tiny_guest"]
pytestmark = pytest.mark.integration


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
    image = tdxctl.json("image", "build", "debian-13", timeout=900)["name"]
    tdxctl.ok("td", "create", "under-libvirt", "--image", image, "--via", "libvirt", "--connect", libvirtd.uri)
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
        _until_rebooted(tdxctl, "under-libvirt")
        tdxctl.ok("td", "wait", "under-libvirt", "--for", "ssh", "--timeout", "300", timeout=BOOT_TIMEOUT)
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
    assert lifecycle.status("demo").reason != observed.EDITED
    libvirtd.virsh("setmaxmem", "demo", "384M", "--config")
    assert lifecycle.status("demo").reason == observed.EDITED
    changes.change("demo", {"memory": "256M"})
    assert lifecycle.status("demo").reason != observed.EDITED
    libvirtd.virsh("start", "demo", check=False)
    assert _state(libvirtd) == "shut off", "its sockets are made by td start"


def test_a_state_that_virsh_saved_without_the_tpm(define: Define, libvirtd: Libvirtd) -> None:
    """A start from it is refused, and the TD stays what it was."""
    define(tpm=True)
    lifecycle.start("demo")
    libvirtd.virsh("managedsave", "demo")
    assert "saved through libvirt" in (until("demo", State.STOPPED).reason or "")
    with pytest.raises(RemoteError, match="saved by virsh managedsave") as refused:
        lifecycle.start("demo")
    assert "managedsave-remove demo" in (refused.value.hint or "")
    assert lifecycle.status("demo").state is State.STOPPED
    libvirtd.virsh("managedsave-remove", "demo")
    assert lifecycle.start("demo").state is State.RUNNING


def test_a_definition_whose_libvirt_is_gone_for_good_can_be_forgotten(define: Define, libvirtd: Libvirtd) -> None:
    record = define()
    gone_uri = "qemu+unix:///system?socket=/nonexistent"
    records.save(replace(record, spec=replace(record.spec, connect=gone_uri)))
    with pytest.raises(SystemFault, match="TD demo is kept elsewhere too") as refused:
        lifecycle.delete("demo")
    assert "--forget" in (refused.value.hint or "")
    assert lifecycle.status("demo").name == "demo"
    lifecycle.delete("demo", forget=True)
    assert lifecycle.list_all() == []
    assert _state(libvirtd) == "shut off"
    libvirtd.virsh("undefine", "demo")


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
    again(lambda: lifecycle.suspend("demo"))
    assert _state(libvirtd) == "paused"
    assert lifecycle.stop("demo", "force").state is State.STOPPED
    assert lifecycle.start("other").state is State.RUNNING


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


def test_a_port_that_is_taken_while_a_state_is_taken_up(define: Define, tmp_path: Path) -> None:
    taker = PortTaker.make(tmp_path)
    define(qemu=str(taker.program), accelerator=Accelerator.TCG)
    taken_up_on_another_port(taker)


def test_settings_disk_console_and_events(define: Define, libvirtd: Libvirtd, home: Path, tmp_path: Path) -> None:
    image = tmp_path / "base.raw"
    image.write_bytes(bytes(32 << 20))
    define(image=image)
    assert changes.change("demo", {"memory": "320M", "vcpus": 2}).spec.vcpus == 2
    shape = libvirtd.virsh("dominfo", "demo").stdout
    assert "CPU(s):         2" in shape and f"{320 << 10} KiB" in shape
    record = lifecycle.start("demo")
    command = Tdxctl(home)
    with (
        command.beside("td", "console", "demo") as console,
        command.beside("td", "events", "demo", "--follow", "--json") as watching,
    ):
        lifecycle.wait_ready("demo", BOOT_TIMEOUT)
        lifecycle.call_guest("demo", "fill")
        _until_large(record.place.overlay, 16 << 20)
        assert lifecycle.stop("demo", "agent").state is State.STOPPED
        assert console.stdout is not None and watching.stdout is not None
        assert "reboot: Power down" in console.stdout.read(), "the console ends with its TD"
        told = [json.loads(next(watching.stdout)).get("state")]
        while told[-1] != "stopped":
            told.append(json.loads(next(watching.stdout)).get("state"))
        watching.terminate()
    assert "stopping" in told
    assert image.read_bytes() == bytes(32 << 20), "an overlay takes the writes"
    changes.clone("demo", "copy")
    assert lifecycle.status("copy").place.overlay.stat().st_size >= 16 << 20
    assert lifecycle.start("demo").state is State.RUNNING
    with pytest.raises(RemoteError, match="did not power off within 2 s") as caught:
        lifecycle.stop("demo", "acpi", timeout=2)
    assert "--mode force" in (caught.value.hint or ""), "firmware that boots hears no power button"
    assert changes.reboot("demo", "force").state is State.RUNNING


def _until_rebooted(tdxctl: Tdxctl, name: str) -> None:
    deadline = time.monotonic() + BOOT_TIMEOUT
    while tdxctl.json("td", "show", name)["run"]["boots"] < 1:
        assert time.monotonic() < deadline
        time.sleep(0.5)


def _until_large(overlay: Path, size: int) -> None:
    deadline = time.monotonic() + 60
    while overlay.stat().st_size < size:
        assert time.monotonic() < deadline
        time.sleep(0.1)

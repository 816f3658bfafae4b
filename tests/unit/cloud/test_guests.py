"""From what a program says of a guest to a specification; what runs it; nothing is started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tdxstack.cloud.guest_options import GuestOptions, boot_files, guest_spec
from tdxstack.cloud.vmguest import VMGuest
from tdxstack.cloud.vmimg import VMImage
from tdxstack.cloud.vmm import STATES, VMMLibvirt, VMMQemu
from tdxstack.cloud.vmparam import VM_STATE_SHUTDOWN, KernelCmdline, VMSpec
from tdxstack.errors import UsageError
from tdxstack.vm.spec import Console, TdSpec, Via, VmType
from tdxstack.vm.state import State


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name in ("disk.raw", "vmlinuz", "initrd.img", "other"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


@pytest.fixture
def built(files: Path) -> Path:
    """The same files as an image that was built."""
    parts: dict[str, Any] = {"disk": {"name": "disk.raw"}}
    for role, name in (("kernel", "vmlinuz"), ("initrd", "initrd.img")):
        parts[role] = {"name": name, "sha256": "00"}
    manifest = {"recipe": "debian-13", "boot": "direct", "key": "k", "created": "now"}
    manifest |= {"cmdline": "root=LABEL=x quiet"}
    (files / "manifest.json").write_text(json.dumps({**manifest, "schema": "tdxstack/image/v1", "files": parts}))
    return files


def _legacy(files: Path, size: VMSpec | None = None, **options: Any) -> TdSpec:
    boot = boot_files(files / "disk.raw", files / "vmlinuz", None, None, None)
    given: GuestOptions = options  # type: ignore[assignment]
    return guest_spec("demo", "legacy", size or VMSpec(cores=2, memsize=1 << 20), boot, given)


def test_a_disk_and_a_kernel(files: Path) -> None:
    spec = _legacy(files)
    assert (spec.type, spec.vcpus, spec.memory) == (VmType.LEGACY, 2, 1 << 30)
    assert (spec.kernel, spec.initrd) == (files / "vmlinuz", None)
    assert (spec.cmdline or "").startswith("root=/dev/vda1 rw ")
    assert spec.console is Console.HVC, "the command line's only console that is not a screen"


def test_a_built_image_brings_what_was_not_given(built: Path) -> None:
    boot = boot_files(built / "disk.raw", built / "vmlinuz", None, None, None)
    assert (boot.initrd, boot.cmdline) == (built / "initrd.img", "root=LABEL=x quiet")
    other = boot_files(built / "disk.raw", built / "other", None, None, None)
    assert (other.kernel, other.initrd) == (built / "other", None)
    assert other.cmdline.startswith("root=/dev/vda1")
    assert boot_files(built / "disk.raw", None, None, None, "/dev/vda3").cmdline == "quiet root=/dev/vda3"
    assert boot_files(built / "disk.raw", None, None, KernelCmdline("ro"), None).cmdline == "ro"
    with pytest.raises(UsageError, match="no image"):
        boot_files("no-such-image", None, None, None, None)


def test_options(files: Path) -> None:
    spec = _legacy(
        files,
        VMSpec(sockets=2, cores=2, memsize=2 << 20),
        hugepages=True,
        mac_addr="52:54:00:00:00:01",
        ports=("8080:80",),
        vsock_cid=9,
        settings={"ssh_port": 2222},
        cmdline=KernelCmdline("rw console=ttyS0 console=tty0"),
    )
    assert (spec.sockets, spec.vcpus, spec.hugepages) == (2, 4, 2 << 20)
    assert (spec.mac, spec.vsock, spec.vsock_cid, spec.ssh_port) == ("52:54:00:00:00:01", True, 9, 2222)
    assert [str(port) for port in spec.ports] == ["tcp:8080:80"]
    assert spec.console is Console.SERIAL
    assert _legacy(files, boot="grub").kernel is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tsx": True}, "unknown option: tsx"),
        ({"hugepage_size": "1G"}, "without huge pages"),
        ({"boot": "pxe"}, "pxe"),
        ({"settings": {"colour": "red"}}, "unknown setting: colour"),
    ],
)
def test_what_makes_no_sense(files: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _legacy(files, **options)


def test_threads_are_not_ignored(files: Path) -> None:
    spec = _legacy(files, VMSpec(sockets=2, cores=3, threads=2, memsize=1 << 20))
    assert (spec.vcpus, spec.sockets, spec.cores, spec.threads) == (12, 2, 3, 2)


def test_every_state_has_a_word() -> None:
    assert set(STATES) == set(State)
    assert set(STATES.values()) == {"running", "paused", "shutdown", "shutting down"}


def test_machines(files: Path) -> None:
    spec = _legacy(files)
    machine = VMMQemu(spec)
    machine.update({"vcpus": 4})
    machine.create()
    assert (machine.state(), machine.record().spec.vcpus) == (VM_STATE_SHUTDOWN, 4)
    machine.update({"cmdline": "quiet"})
    assert machine.record().spec.cmdline == "quiet"
    machine.destroy()
    with pytest.raises(UsageError, match="no way to shut down"):
        machine.shutdown("gently")
    machine.delete()
    machine.delete()
    assert not machine.disk.parent.exists()
    libvirt = VMMLibvirt(spec, "qemu+ssh://host/system")
    assert (libvirt._spec.via, libvirt._spec.connect) == (Via.LIBVIRT, "qemu+ssh://host/system")


@pytest.mark.processes
def test_files_that_the_kernel_makes_are_not_copied_by_scp(files: Path) -> None:
    disk = files / "empty.raw"
    disk.write_bytes(bytes(1 << 20))
    guest = VMGuest(_legacy(files), VMImage(disk), VMMQemu)
    with pytest.raises(UsageError, match="made by the kernel") as caught:
        guest.scp_out("/sys/kernel/security/tpm0/binary_bios_measurements", files / "log")
    assert "ssh_run" in (caught.value.hint or "")

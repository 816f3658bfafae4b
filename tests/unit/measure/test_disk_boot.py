"""Boots from a disk: which events follow from what is on it. That real boots leave these is tested in integration."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

import efi_disk
from pe_image import grub, image, shim
from recorded_boot import inputs, recorded_blobs, recorded_facts
from tdxstack.firmware.enroll import certificate_lists
from tdxstack.measure import Prediction, predict
from tdxstack.measure.boot_disk import BootDisk
from tdxstack.vm.disk import opened
from tdxstack.vm.marker_kernel import marker_kernel
from tdxstack.wire.efi.variable import GLOBAL_VARIABLE, IMAGE_SECURITY_DATABASE, load_option, load_option_file
from tdxstack.wire.efi.varstore import Variable
from tdxstack.wire.pe import authenticode

pytestmark = pytest.mark.processes
STUB = b"#### LoaderInfo: systemd-stub 257.13 ####\0"
UKI = image((".text", STUB), (".linux", marker_kernel()), (".initrd", b"initrd!"), (".cmdline", b"quiet"))
CONFIG = b"set timeout=0\nlinux /vmlinuz quiet\ninitrd /initrd.img\nboot\n"
GRUB_FILES = {
    "EFI/BOOT/BOOTX64.EFI": shim(),
    "EFI/BOOT/grubx64.efi": grub(),
    "EFI/debian/grub.cfg": CONFIG,
    "vmlinuz": b"kernel",
    "initrd.img": b"initrd",
}
OPTIONS = (("BootOrder", b"\1\0"), ("Boot0001", load_option("UEFI Misc Device", b"")))


def predicted(folder: Path, files: Mapping[str, bytes], **changes: object) -> Prediction:
    blobs = replace(recorded_blobs(), boot_options=OPTIONS)
    with opened(efi_disk.make(folder / "disk.raw", files)) as reader:
        base = {"kernel": None, "initrd": None, "cmdline": "", "blobs": blobs, "disk": BootDisk(reader)}
        return predict(inputs(**(base | changes)))


def names(prediction: Prediction, rtmr: int) -> list[str]:
    return [event.name for event in prediction.of_register(rtmr) if event.name != "separator"]


EXIT = ["exit boot services"] * 4


def test_a_unified_kernel_image(tmp_path: Path) -> None:
    found = predicted(tmp_path, {"EFI/BOOT/BOOTX64.EFI": UKI})
    assert found.reasons == (None,) * 4
    assert names(found, 1) == ["boot attempt", "partition table", "unified kernel image", "inner kernel", *EXIT]
    assert names(found, 2)[-2:] == ["command line", "initrd"]
    digests = {event.name: event.digest for event in found.events}
    assert digests["unified kernel image"] == authenticode(UKI, "sha384")[0]


def test_shim_and_grub(tmp_path: Path) -> None:
    found = predicted(tmp_path, GRUB_FILES)
    assert found.reasons == (None,) * 4
    assert names(found, 1) == ["boot attempt", "partition table", "shim", "GRUB", *EXIT]
    assert names(found, 0)[-1] == "authority SbatLevel"
    assert names(found, 2) == [
        "MokList",
        "MokListX",
        "MokListTrusted",
        "(hd0,gpt1)/EFI/debian/grub.cfg",
        "(hd0,gpt1)/EFI/debian/grub.cfg",
        "grub_cmd: set timeout=0",
        "grub_cmd: linux /vmlinuz quiet",
        "/vmlinuz",
        "kernel_cmdline: /vmlinuz quiet",
        "grub_cmd: initrd /initrd.img",
        "/initrd.img",
        "grub_cmd: boot",
        "command line",
        "initrd",
    ]
    text = "BOOT_IMAGE=/vmlinuz quiet".encode("utf-16-le")
    assert found.of_register(2)[-2].digest == hashlib.sha384(text).digest()


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"README": b"x"}, "no FAT partition of the disk has"),
        ({"EFI/BOOT/BOOTX64.EFI": image((".text", b"x"))}, "neither shim, GRUB nor"),
        ({"EFI/BOOT/BOOTX64.EFI": shim()}, "for shim to start"),
        (GRUB_FILES | {"EFI/BOOT/fbx64.efi": b"x"}, "fbx64.efi"),
        (GRUB_FILES | {"EFI/debian/grub.cfg": b"menuentry x {\n}"}, "menuentry in grub.cfg"),
        (GRUB_FILES | {"EFI/BOOT/grubx64.efi": grub(config=b"x")}, "the start of a GRUB"),
        (GRUB_FILES | {"EFI/BOOT/grubx64.efi": grub(sbat="grub.ubuntu,1\n")}, "lets the firmware start the kernel"),
        ({"EFI/BOOT/BOOTX64.EFI": UKI, "loader/addons/a.efi": b"x"}, "loader/addons"),
    ],
)
def test_what_cannot_be_followed_is_said(files: Mapping[str, bytes], reason: str, tmp_path: Path) -> None:
    found = predicted(tmp_path, files)
    assert found.rtmr[2] is None
    assert reason in (found.reasons[2] or "")


def test_a_boot_option_names_another_file(tmp_path: Path) -> None:
    path = "\\EFI\\other\\a.efi"
    node = bytes((4, 4)) + (4 + 2 * len(path) + 2).to_bytes(2, "little") + (path + "\0").encode("utf-16-le")
    option = load_option("other", node)
    assert load_option_file(option) == path.lstrip("\\")
    blobs = replace(recorded_blobs(), boot_options=(("BootOrder", b"\1\0"), ("Boot0001", option)))
    files = {"EFI/BOOT/BOOTX64.EFI": UKI, "EFI/other/a.efi": GRUB_FILES["EFI/BOOT/grubx64.efi"], **GRUB_FILES}
    assert "GRUB" in names(predicted(tmp_path, files, blobs=blobs), 1)


def test_a_fat_partition_beside_a_direct_boot_costs_an_attempt_to_exit(tmp_path: Path) -> None:
    found = predicted(tmp_path, {"x": b""}, kernel=marker_kernel(), cmdline="quiet")
    assert names(found, 1)[-4:] == EXIT


def signed(program: bytes, *signatures: bytes) -> bytes:
    """An image with these in its certificate table."""
    entries = [struct.pack("<IHH", 8 + len(one), 0x200, 2) + one for one in signatures]
    table = b"".join(one + bytes(-len(one) % 8) for one in entries)
    whole = bytearray(program + bytes(-len(program) % 8) + table)
    struct.pack_into("<II", whole, 0x400 + 24 + 112 + 32, len(whole) - len(table), len(table))
    return bytes(whole)


def certificate(name: bytes) -> bytes:
    """As much of an X.509 certificate as has a subject."""

    def element(tag: int, content: bytes) -> bytes:
        return bytes((tag, len(content))) + content

    fields = [element(0xA0, b"v3"), element(2, b"1"), *(element(0x30, b"") for _ in range(3)), element(0x30, name)]
    return element(0x30, element(0x30, b"".join(fields)))


def test_who_vouches_under_secure_boot(tmp_path: Path) -> None:
    """Firmware and shim measure an entry once each; shim looks at every signature, and measures the kernel."""
    db, vendor = certificate(b"owner of db"), certificate(b"vendor")
    enrolled = (
        Variable("PK", GLOBAL_VARIABLE, b"pk"),
        Variable("db", IMAGE_SECURITY_DATABASE, certificate_lists([db])),
    )
    issued = b"leaf issued by " + vendor[vendor.index(b"vendor") - 2 :]
    files = GRUB_FILES | {
        "EFI/BOOT/BOOTX64.EFI": signed(shim(vendor=vendor), b"somebody", b"holds " + db),
        "EFI/BOOT/grubx64.efi": signed(grub(), issued, b"holds " + db),
        "vmlinuz": signed(marker_kernel(), issued),
    }
    facts = replace(recorded_facts(), secure_boot=True, needs_smm=True)
    found = predicted(tmp_path, files, variables=enrolled, facts=facts)
    assert found.reasons == (None,) * 4
    authorities = [event.why for event in found.of_register(0) if event.name.startswith("authority")]
    assert authorities == [
        "the db entry that vouches for the image's signature",
        "the SBAT level that this shim sets",
        "the entry of MokListRT by which shim accepts a signature of the image",
        "the entry of db by which shim accepts a signature of the image",
    ]
    assert names(found, 1) == ["boot attempt", "partition table", "shim", "GRUB", "kernel", *EXIT]
    stranger = predicted(tmp_path, files | {"vmlinuz": marker_kernel()}, variables=enrolled, facts=facts)
    assert "shim refuses it" in (stranger.reasons[0] or "")

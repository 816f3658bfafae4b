"""Domain XML as golden files: tests/golden/domain/NAME.xml."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from tdxstack.vm.dialects import DIALECTS
from tdxstack.vm.libvirt import domain_xml
from tdxstack.vm.network import PortForward
from tdxstack.vm.qemu.launch import Launch
from tdxstack.vm.spec import Boot, Console, TdAttributes, TdSpec, VmType

GOLDEN = Path(__file__).resolve().parents[3] / "golden" / "domain"
SPEC = TdSpec(
    name="demo", kernel=Path("/k/vmlinuz"), initrd=Path("/k/initrd.img"), cmdline="console=ttyS0 root=LABEL=x"
)
LAUNCH = Launch(
    run_dir=Path("/run/td"),
    log_dir=Path("/td"),
    accelerator="kvm",
    mac="52:54:00:00:00:01",
    firmware=Path("/fw/OVMF.fd"),
    disk=Path("/td/overlay.qcow2"),
    ssh_port=10022,
    authorized_keys=Path("/run/td/authorized_keys"),
)
DIGEST = bytes(range(48))
GRUB: dict[str, Any] = {"boot": Boot.GRUB, "kernel": None, "initrd": None, "cmdline": None}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "software": (
        "software",
        {},
        {
            "accelerator": "tcg",
            "platform_arguments": ("-device", "virtserialport,bus=serial0.0,chardev=c,name=n"),
            "ports": (PortForward("udp", 5353, 53),),
        },
    ),
    "upstream": (
        "upstream",
        {"mrconfigid": DIGEST, "network": "bridge:virbr0", "vcpus": 8, "sockets": 2, "threads": 2},
        {},
    ),
    "upstream-grub-hvc": ("upstream", {**GRUB, "console": Console.HVC, "quote": "unix:/q&s"}, {"vsock_cid": 9}),
    "tdx15": ("tdx15", {"mrowner": DIGEST, "debug": True, "quote": "tdvmcall"}, {}),
    "canonical": ("canonical", {"quote": "vsock:2:4051", "network": "none"}, {}),
    "efi-hugepages": ("software", {"type": VmType.EFI, "hugepages": 2 << 20}, {}),
    "legacy": ("software", {"type": VmType.LEGACY}, {}),
    "software-large": (
        "software",
        {
            "vcpus": 8,
            "sockets": 2,
            "threads": 2,
            "memory": 8 << 30,
            "devices": ("virtio-gpu-pci,id=gpu0,xres=1024,blob=off",),
        },
        {"accelerator": "tcg"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str) -> None:
    dialect, settings, facts = CASES[case]
    spec, launch = dataclasses.replace(SPEC, **settings), dataclasses.replace(LAUNCH, **facts)
    text = domain_xml.build(spec, DIALECTS[dialect], launch, emulator="/usr/bin/qemu-system-x86_64")
    path = GOLDEN / f"{case}.xml"
    if os.environ.get("TDXSTACK_WRITE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()
    ET.fromstring(text)  # noqa: S314 - our own text


@pytest.mark.parametrize(
    ("dialect", "settings", "reason"),
    [
        ("upstream", {"quote": "vsock"}, "unix socket only"),
        ("canonical", {"quote": "unix:/x"}, "by vsock only"),
        ("upstream", {"attributes": TdAttributes.PERFMON}, "no TD attribute bits 0x8000000000000000"),
        ("upstream", {"debug": True}, "refuses TD attribute bit 0"),
    ],
)
def test_what_libvirt_cannot_say(dialect: str, settings: dict[str, Any], reason: str) -> None:
    (said,) = domain_xml.refusals(dataclasses.replace(SPEC, **settings), DIALECTS[dialect])
    assert reason in said


def test_digests_are_base64_upstream_and_hex_before() -> None:
    spec = dataclasses.replace(SPEC, mrowner=DIGEST)
    upstream = domain_xml.build(spec, DIALECTS["upstream"], LAUNCH, emulator="/q")
    assert DIGEST.hex() not in upstream
    assert f"<mrOwner>{DIGEST.hex()}</mrOwner>" in domain_xml.build(spec, DIALECTS["tdx15"], LAUNCH, emulator="/q")


@pytest.mark.parametrize(("gib", "dialect", "kinds"), [
    (32, "software", ["source", "access"]), (4, "software", []), (32, "upstream", []),
])  # fmt: skip
def test_a_large_machine_has_memory_that_is_counted_as_it_is_used(gib: int, dialect: str, kinds: list[str]) -> None:
    spec = dataclasses.replace(SPEC, type=VmType.EFI, memory=gib << 30)
    text = domain_xml.build(spec, DIALECTS[dialect], LAUNCH, emulator="/usr/bin/qemu-system-x86_64")
    found = ET.fromstring(text).find("memoryBacking")  # noqa: S314 - our own
    assert [child.tag for child in (found if found is not None else ())] == kinds

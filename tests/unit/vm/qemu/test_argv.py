"""QEMU's argument lists as golden files: tests/golden/argv/NAME.txt, one word per line."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tdxstack.vm.dialects import DIALECTS
from tdxstack.vm.network import PortForward
from tdxstack.vm.qemu import argv
from tdxstack.vm.qemu.launch import Launch
from tdxstack.vm.qemu.options import option
from tdxstack.vm.spec import Boot, Console, Ima, TdSpec, VmType

GOLDEN = Path(__file__).resolve().parents[3] / "golden" / "argv"
SPEC = TdSpec(
    name="demo", kernel=Path("/k/vmlinuz"), initrd=Path("/k/initrd.img"), cmdline="console=ttyS0 root=LABEL=x"
)
LAUNCH = Launch(
    run_dir=Path("/run/td"),
    log_dir=Path("/td"),
    accelerator="tcg",
    mac="52:54:00:00:00:01",
    firmware=Path("/fw/OVMF.fd"),
    disk=Path("/td/overlay.qcow2"),
    ssh_port=10022,
    authorized_keys=Path("/run/td/authorized_keys"),
)
DIGEST = bytes(range(48))
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "software-direct": (
        "software",
        {},
        {"platform_arguments": ("-chardev", "socket,id=tpm"), "platform_machine": (("a", "b"),)},
    ),
    "software-hvc-ports": (
        "software",
        {"console": Console.HVC, "vcpus": 8, "sockets": 2, "threads": 2},
        {"ports": (PortForward("udp", 5353, 53),), "vsock_cid": 7},
    ),
    "software-ima": ("software", {"ima": Ima.CRITICAL_DATA}, {}),
    "software-smm": ("software", {}, {"smm": True, "firmware": Path("/fw/OVMF,sb.fd")}),
    "software-debug": ("software", {"debug": True}, {}),
    "efi-grub": (
        "software",
        {"type": VmType.EFI, "boot": Boot.GRUB, "kernel": None, "initrd": None, "cmdline": None},
        {},
    ),
    "legacy-raw-bridge": (
        "software",
        {"type": VmType.LEGACY, "network": "bridge:br0"},
        {"disk": Path("/images/a,b.raw"), "disk_format": "raw"},
    ),
    "tdx15-direct": (
        "tdx15",
        {"quote": "tdvmcall", "mrconfigid": DIGEST, "debug": True},
        {"accelerator": "kvm"},
    ),
    "tdx15-hugepages": ("tdx15", {"quote": "none", "hugepages": 2 << 20}, {"accelerator": "kvm"}),
    "canonical-vsock": ("canonical", {"quote": "vsock", "mrowner": DIGEST}, {"accelerator": "kvm", "vsock_cid": 3}),
    "upstream-direct": (
        "upstream",
        {"mrownerconfig": DIGEST, "devices": ("virtio-balloon-pci",)},
        {"accelerator": "kvm"},
    ),
    "upstream-no-quote-incoming": ("upstream", {"quote": "none"}, {"accelerator": "kvm", "incoming": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str) -> None:
    dialect, settings, facts = CASES[case]
    words = argv.build(dataclasses.replace(SPEC, **settings), DIALECTS[dialect], dataclasses.replace(LAUNCH, **facts))
    text = "\n".join(words) + "\n"
    path = GOLDEN / f"{case}.txt"
    if os.environ.get("TDXSTACK_WRITE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def test_digests_are_hex_or_base64_as_the_dialect_wants() -> None:
    spec = dataclasses.replace(SPEC, mrowner=DIGEST)
    assert f"mrowner={DIGEST.hex()}" in argv.tdx_object(spec, DIALECTS["tdx15"])
    upstream = json.loads(argv.tdx_object(spec, DIALECTS["upstream"]))
    assert len(upstream["mrowner"]) == 64
    assert upstream["attributes"] == 0x10000000


def test_a_comma_in_a_value_is_doubled() -> None:
    assert option("file", {"path": "/a,b", "on": True, "left": None}) == "file,path=/a,,b,on=on"


def test_nokaslr_is_added_once() -> None:
    spec = dataclasses.replace(SPEC, debug=True, cmdline="nokaslr quiet")
    assert argv.kernel_cmdline(spec) == "nokaslr quiet"
    assert argv.kernel_cmdline(dataclasses.replace(spec, cmdline=None)) == "nokaslr"

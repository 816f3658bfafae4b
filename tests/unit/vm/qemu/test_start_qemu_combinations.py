"""Options of the paper's launcher in combination: each does what it does alone, whatever else is given."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tdxstack.vm.qemu.start_qemu import Machine, Options, tdx15_argv

MACHINE = Machine(Path("/q"), Path("/bios.bin"), "qcow2", Path("/log"), vsock_cid=3)
VALUES: dict[str, tuple[Any, ...]] = {
    "type": ("legacy", "efi", "td"),
    "boot": ("direct", "grub"),
    "monitor_port": (9100,),
    "ssh_port": (10100,),
    "firmware": (Path("/fw"),),
    "mac": ("52:54:00:AA:bb:01",),
    "quote": ("tdvmcall", "vsock"),
    "vcpus": (4,),
    "root": ("/dev/vda3",),
    "extra": ("quiet a=b",),
    "network": ("10.9.0.0/24",),
    "dhcp_start": ("10.9.0.20",),
    "mrownerconfig": ("ab" * 48,),
    "hugepages": ("/huge",),
    "vsock": (True,),
    "debug": (True,),
    "serial": (True,),
}


def _some(seed: int) -> Options:
    chance = random.Random(seed)
    chosen = {name: chance.choice(values) for name, values in VALUES.items() if chance.random() < 0.4}
    if chosen.get("type", "td") != "td":
        chosen.pop("mrownerconfig", None)
    return Options(image=Path("/i"), kernel=Path("/k"), **chosen).check()


def _after(argv: list[str], option: str) -> list[str]:
    return [argv[index + 1] for index, word in enumerate(argv) if word == option]


@pytest.mark.parametrize("seed", range(200))
def test_a_combination(seed: int) -> None:
    given = _some(seed)
    argv = tdx15_argv(given, MACHINE)
    assert argv[:12] == [
        "/q", "-accel", "kvm", "-name", "process=tdxvm,debug-threads=on", "-m", "2G", "-vga", "none", "-no-hpet",
        "-nodefaults", "-drive",
    ]  # fmt: skip
    assert _after(argv, "-monitor") == [f"telnet:127.0.0.1:{given.monitor_port},server,nowait"]
    assert _after(argv, "-smp") == [str(given.vcpus)]
    forward = f"hostfwd=tcp::{given.ssh_port}-:22"
    assert _after(argv, "-netdev") == [f"user,id=mynet0,net={given.network},dhcpstart={given.dhcp_start},{forward}"]
    devices = _after(argv, "-device")
    assert devices[0] == "virtio-net-pci,netdev=mynet0" + (f",mac={given.mac}" if given.mac else "")
    assert ("vhost-vsock-pci,guest-cid=3" in devices) is (given.vsock or given.quote == "vsock")
    assert ("virtconsole,chardev=mux" in devices) is not given.serial
    assert _after(argv, "-serial") == ["stdio" if given.serial else "chardev:mux"]
    assert ("-S" in argv, "-s" in argv) == (given.debug, given.debug)
    assert _after(argv, "-kernel") == (["/k"] if given.boot == "direct" else [])
    words = _after(argv, "-append")[0].split() if given.boot == "direct" else []
    if words:
        more = (["nokaslr"] if given.debug else []) + (given.extra or "").split()
        assert words == [f"root={given.root}", "rw", "console=hvc0", *more]
    _check_kind(given, argv)


def _check_kind(given: Options, argv: list[str]) -> None:
    objects, (machine,), (firmware,) = _after(argv, "-object"), _after(argv, "-machine"), _after(argv, "-bios")
    if given.type != "td":
        assert (objects, machine) == ([], "q35" if given.type == "legacy" else "q35,kernel_irqchip=split")
    if given.type == "legacy":
        assert firmware == "/bios.bin"
        return
    assert firmware == ("/usr/share/qemu/OVMF.debug.fd" if given.debug else str(given.firmware))
    if given.type == "efi":
        return
    assert machine == "q35,kernel_irqchip=split,confidential-guest-support=tdx,memory-backend=ram1"
    properties = set(objects[0].split(",")) - {"tdx-guest", "sept-ve-disable=on", "id=tdx"}
    assert properties == {
        *(["quote-generation-service=vsock:2:4050"] if given.quote == "tdvmcall" else []),
        *([f"mrownerconfig={given.mrownerconfig}"] if given.mrownerconfig else []),
        *(["debug=on"] if given.debug else []),
    }
    private = "memory-backend-memfd-private,id=ram1,size=2G"
    huge = "memory-backend-memfd,id=ramhuge,size=2G,hugetlb=on,hugetlbsize=2M"
    assert objects[1:] == ([huge, f"{private},path=/huge,shmemdev=ramhuge"] if given.hugepages else [private])

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tdxstack.vm.probe_argv import probe_argv, shape

ARGV = [
    *("qemu-system-x86_64", "-name", "guest=demo", "-nodefaults", "-accel", "kvm", "-S"),
    *("-machine", "q35,confidential-guest-support=tdx0,hpet=off,memory-backend=ram0", "-cpu", "host,la57=off"),
    *("-smp", "2", "-m", "2048M", "-object", "memory-backend-ram,id=ram0,size=2048M"),
    *("-object", '{"qom-type": "tdx-guest", "id": "tdx0"}', "-object", "rng-random,id=rng0,filename=/dev/urandom"),
    *("-bios", "/real/OVMF.fd", "-kernel", "/real/vmlinuz", "-initrd", "/real/initrd", "-append", "quiet"),
    *(
        "-blockdev",
        json.dumps({"driver": "qcow2", "node-name": "disk0", "file": {"driver": "file", "filename": "/d"}}),
    ),
    *("-device", "virtio-blk-pci,drive=disk0", "-netdev", "user,id=net0,hostfwd=tcp::1-:2"),
    *("-device", "virtio-net-pci,netdev=net0,mac=52:54:00:00:00:01"),
    *("-chardev", "socket,id=agent,path=/run/agent.sock,server=on", "-chardev", "socket,id=tpm,path=/run/tpm.sock"),
    *("-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0", "-serial", "chardev:agent"),
    *("-smbios", "type=1,serial=x", "-fw_cfg", "name=opt/io.systemd.credentials/x,file=/secret"),
    *("-fw_cfg", "name=opt/ovmf/X-PciMmio64Mb,string=65536", "-qmp", "unix:/run/qmp.sock"),
]


def probed(argv: list[str] = ARGV) -> list[str]:
    return probe_argv(argv, firmware=Path("/p/fw"), kernel=Path("/p/k"), directory=Path("/p"))


def test_what_shapes_the_tables_stays() -> None:
    words = probed()
    for option, value in [
        ("-smp", "2"),
        ("-m", "2048M"),
        ("-cpu", "max,la57=off"),
        ("-machine", "q35,hpet=off,memory-backend=probe-ram"),
        ("-device", "virtio-blk-pci,drive=disk0"),
        ("-device", "virtio-net-pci,netdev=net0,mac=52:54:00:00:00:01"),
        ("-device", "tpm-crb,tpmdev=tpm0"),
        ("-tpmdev", "emulator,id=tpm0,chardev=tpm"),
        ("-smbios", "type=1,serial=x"),
        ("-fw_cfg", "name=opt/ovmf/X-PciMmio64Mb,string=65536"),
        ("-object", "rng-random,id=rng0,filename=/dev/urandom"),
        ("-bios", "/p/fw"),
        ("-kernel", "/p/k"),
        ("-accel", "tcg"),
    ]:
        assert any(words[n : n + 2] == [option, value] for n in range(len(words))), (option, value)


def test_memory_is_a_file_of_the_machines_size() -> None:
    assert "memory-backend-file,id=probe-ram,size=2048M,share=on,mem-path=" in " ".join(probed())


def test_nothing_reaches_the_outside() -> None:
    text = " ".join(probed())
    for gone in (
        "/real/",
        "/run/",
        "/secret",
        "hostfwd",
        '"filename"',
        "kvm",
        "tdx-guest",
        "memory-backend-memfd",
        " -S ",
    ):
        assert gone not in text, gone
    assert "null,id=agent" in text
    assert "hubport,id=net0" in text
    assert "driver=null-co,read-zeroes=on,size=1073741824,node-name=disk0" in text
    assert "socket,id=tpm,path=/p/swtpm.sock" in text


def test_firmware_in_flash_stays_in_flash() -> None:
    flash = ["-global", "driver=cfi.pflash01,property=secure,value=on", "-drive", "if=pflash,format=raw,file=/real/x"]
    words = probed([*(word for word in ARGV if word not in ("-bios", "/real/OVMF.fd")), *flash])
    assert "-bios" not in words
    assert [word for word in words if "pflash" in word] == [flash[1], "if=pflash,format=raw,unit=0,file=/p/fw"]


def test_without_a_kernel_none_is_given() -> None:
    assert "-kernel" not in probe_argv(ARGV, firmware=Path("/p/fw"), kernel=None, directory=Path("/p"))


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("quiet", "single", True),
        ("/real/vmlinuz", "/other/vmlinuz", True),
        ("user,id=net0,hostfwd=tcp::1-:2", "user,id=net0,hostfwd=tcp::3-:4", True),
        ("socket,id=tpm,path=/run/tpm.sock", "socket,id=tpm,path=/run/2/tpm.sock", True),
        ("2048M", "4096M", False),
        ("virtio-blk-pci,drive=disk0", "virtio-scsi-pci", False),
    ],
)
def test_the_shape_is_that_of_the_machine(before: str, after: str, same: bool) -> None:
    other = [after if word == before else word for word in ARGV]
    assert (shape(ARGV) == shape(other)) is same


def test_the_words_of_libvirt() -> None:
    rng = '{"qom-type":"rng-random","id":"objrng0","filename":"/dev/urandom"}'
    network = '{"driver":"virtio-net-pci","netdev":"net0","bus":"pci.2","addr":"0x0"}'
    text = " ".join(
        words := probed(
            [
                *ARGV,
                *("-object", '{"qom-type":"secret","id":"masterKey0","file":"/run/key"}', "-object", rng),
                *("-add-fd", "set=0,fd=26,opaque=serial0-log", "-msg", "timestamp=on", "-device", network),
                *("-chardev", "socket,id=charserial0,fd=25,server=on,logfile=/dev/fdset/0,logappend=on"),
                *("-device", '{"driver":"vhost-vsock-pci","vhostfd":"3","guest-cid":9,"bus":"pci.3","addr":"0x0"}'),
            ]
        )
    )
    assert rng in words, "the RNG's device needs it"
    assert network in words, "slots and buses are what the tables tell"
    assert '{"driver": "virtio-balloon-pci", "bus": "pci.3", "addr": "0x0"}' in words, "the same slot, no host CID"
    for gone in ("masterKey0", "fd=26", "fdset", "vhostfd", "timestamp"):
        assert gone not in text, gone

"""A TdSpec in a dialect, with the facts of one start, as QEMU's argument list. Nothing is touched or started."""

from __future__ import annotations

import json
from typing import Any

from tdxstack.vm.dialects import Dialect, Reboot, quote_address, wanted_attributes
from tdxstack.vm.network import user_network
from tdxstack.vm.qemu.launch import AGENT_PORT, Launch
from tdxstack.vm.qemu.options import option
from tdxstack.vm.spec import MIB, Boot, Console, Ima, TdSpec, VmType

#: Bytes of the machine's own identity in ``-name process=``, which Linux cuts at 15.
PROCESS_NAME_LENGTH = 15
MEMORY_ID = "ram0"


def build(spec: TdSpec, dialect: Dialect, launch: Launch) -> list[str]:
    """The whole argument list, the binary first."""
    parts = (
        _identity(spec),
        _machine(spec, dialect, launch),
        _processor(spec, dialect, launch),
        _memory(spec, dialect),
        _firmware(spec, launch),
        _kernel(spec),
        _disk(spec, launch),
        network_words(spec, launch),
        _console(spec, launch),
        _agent(launch),
        _trust_domain(spec, dialect, launch),
        _credentials(launch),
        _debug(spec, launch),
        _extra(spec, launch),
        _monitor(dialect, launch),
    )
    return [spec.qemu, *(word for part in parts for word in part)]


def _identity(spec: TdSpec) -> list[str]:
    process = f"td-{spec.name}"[:PROCESS_NAME_LENGTH]
    name = option(f"guest={spec.name}", {"process": process, "debug-threads": True})
    return ["-name", name, "-no-user-config", "-nodefaults", "-display", "none"]


def _machine(spec: TdSpec, dialect: Dialect, launch: Launch) -> list[str]:
    properties: list[tuple[str, Any]] = []
    if spec.type is VmType.TD and dialect.hardware:
        properties.append(("confidential-guest-support", "tdx0"))
    properties += [("memory-backend", MEMORY_ID), *launch.platform_machine]
    accelerator = "kvm" if launch.accelerator == "kvm" else "tcg,thread=multi"
    machine = dialect.machine.replace("smm=off", "smm=on") if launch.smm else dialect.machine
    return ["-accel", accelerator, "-machine", option(machine, properties), *dialect.hpet_option]


def _processor(spec: TdSpec, dialect: Dialect, launch: Launch) -> list[str]:
    model = dialect.cpu if launch.accelerator == "kvm" else "max"
    smp = option(str(spec.vcpus), {"sockets": spec.sockets, "cores": spec.cores, "threads": spec.threads})
    return ["-cpu", model, "-smp", smp]


def _memory(spec: TdSpec, dialect: Dialect) -> list[str]:
    size = f"{spec.memory // MIB}M"
    facts: dict[str, Any] = {"id": MEMORY_ID, "size": size}
    if not spec.hugepages and not dialect.hardware:
        # Nothing is pinned: a machine may be larger than what it will ever use of its host.
        facts["reserve"] = False
    if not spec.hugepages:
        backend = dialect.memory_backend if spec.type is VmType.TD else "memory-backend-ram"
        return ["-m", size, "-object", option(backend, facts)]
    huge = {"hugetlb": True, "hugetlbsize": f"{spec.hugepages // MIB}M"}
    if spec.type is VmType.TD and dialect.memory_backend == "memory-backend-memfd-private":
        shared = option("memory-backend-memfd", {"id": "ramhuge", "size": size, **huge})
        private = option(dialect.memory_backend, {**facts, "path": "/dev/hugepages", "shmemdev": "ramhuge"})
        return ["-m", size, "-object", shared, "-object", private]
    return ["-m", size, "-object", option("memory-backend-memfd", {**facts, **huge})]


def _firmware(spec: TdSpec, launch: Launch) -> list[str]:
    if spec.type is VmType.LEGACY or launch.firmware is None:
        return []
    if launch.smm:
        # What the firmware writes goes with the machine: each start has the file's variables, which are measured.
        flash = {"format": "raw", "unit": 0, "snapshot": True, "file": launch.firmware}
        secure = "driver=cfi.pflash01,property=secure,value=on"
        return ["-global", secure, "-drive", option("if=pflash", flash)]
    return ["-bios", str(launch.firmware)]


def _kernel(spec: TdSpec) -> list[str]:
    if spec.boot is Boot.GRUB or spec.kernel is None:
        return []
    words = ["-kernel", str(spec.kernel)]
    if spec.initrd is not None:
        words += ["-initrd", str(spec.initrd)]
    cmdline = kernel_cmdline(spec)
    return [*words, "-append", cmdline] if cmdline else words


def kernel_cmdline(spec: TdSpec) -> str:
    """The command line as the guest gets it and as it is measured: the spec's, IMA's words, ``nokaslr`` to debug."""
    given = spec.cmdline or ""
    present = {word.partition("=")[0] for word in given.split()}
    # A unified kernel image has a command line of its own, which must ask for IMA itself.
    ima = ima_words(spec.ima) if spec.boot is Boot.DIRECT else []
    wanted = [*ima, *(["nokaslr"] if spec.debug else [])]
    return " ".join([given, *(word for word in wanted if word.partition("=")[0] not in present)]).strip()


def ima_words(ima: Ima) -> list[str]:
    """The kernel's options for IMA (white paper, section 4.2.5)."""
    if ima is Ima.OFF:
        return []
    policy = [] if ima is Ima.ON else [f"ima_policy={ima.value}"]
    return ["ima_hash=sha384", *policy]


def _disk(spec: TdSpec, launch: Launch) -> list[str]:
    if launch.disk is None:
        return []
    node = {
        "driver": launch.disk_format,
        "node-name": "disk0",
        "discard": "unmap",
        "file": {"driver": "file", "filename": str(launch.disk)},
    }
    # With a kernel handed over, QEMU takes boot index 0 for itself.
    index = None if _kernel(spec) else 0
    card = option("virtio-blk-pci", {"drive": "disk0", "id": "blk0", "bootindex": index})
    return ["-blockdev", json.dumps(node), "-device", card]


def network_words(spec: TdSpec, launch: Launch) -> list[str]:
    """The network behind the guest's card, and the card."""
    if spec.network == "none":
        return []
    if spec.network.startswith("bridge:"):
        back_end = option("bridge", {"id": "net0", "br": spec.network.partition(":")[2]})
    else:
        forwards = [(one.protocol, one.host, one.guest) for one in launch.ports]
        if launch.ssh_port is not None:
            forwards.insert(0, ("tcp", launch.ssh_port, 22))
        words = [("hostfwd", f"{kind}:127.0.0.1:{host}-:{guest}") for kind, host, guest in forwards]
        back_end = option("user", [("id", "net0"), *user_network(spec.network).items(), *words])
    # No option ROM: the firmware would measure and run it.
    card = option("virtio-net-pci", {"netdev": "net0", "id": "nic0", "mac": launch.mac, "romfile": ""})
    return ["-netdev", back_end, "-device", card]


def _console(spec: TdSpec, launch: Launch) -> list[str]:
    character = option(
        "socket",
        {
            "id": "console",
            "path": launch.console,
            "server": True,
            "wait": False,
            "logfile": launch.console_log,
            "logappend": True,
        },
    )
    words = ["-device", "virtio-serial-pci,id=serial0", "-chardev", character]
    if spec.console is Console.SERIAL:
        return [*words, "-serial", "chardev:console"]
    firmware = option("file", {"id": "firmware", "path": launch.firmware_log})
    return [
        *words,
        *("-device", "virtconsole,bus=serial0.0,nr=0,chardev=console"),
        *("-chardev", firmware, "-serial", "chardev:firmware"),
    ]


def _agent(launch: Launch) -> list[str]:
    character = option("socket", {"id": "agent", "path": launch.agent, "server": True, "wait": False})
    port = option("virtserialport", {"bus": "serial0.0", "chardev": "agent", "id": "agent0", "name": AGENT_PORT})
    return ["-chardev", character, "-device", port, "-device", "virtio-rng-pci"]


def _trust_domain(spec: TdSpec, dialect: Dialect, launch: Launch) -> list[str]:
    words: list[str] = []
    if spec.type is VmType.TD and dialect.hardware:
        words = ["-object", tdx_object(spec, dialect)]
    if launch.vsock_cid is not None:
        words += ["-device", option("vhost-vsock-pci", {"guest-cid": launch.vsock_cid})]
    return [*words, *launch.platform_arguments]


def tdx_object(spec: TdSpec, dialect: Dialect) -> str:
    """The ``tdx-guest`` object: JSON where the quote socket is a structure, else ``key=value``."""
    facts: dict[str, Any] = {"id": "tdx0"}
    attributes = wanted_attributes(spec)
    if dialect.attribute_flags:
        facts |= {name: bool(attributes & flag) for flag, name in dialect.attribute_flags}
    else:
        facts["attributes"] = attributes
    for name in ("mrconfigid", "mrowner", "mrownerconfig"):
        if any(getattr(spec, name)):
            facts[name] = dialect.encode_digest(getattr(spec, name))
    address = quote_address(spec, dialect)
    if dialect.quote_property == "quote-generation-service":
        if address is not None:
            facts[dialect.quote_property] = address
        return option("tdx-guest", facts)
    if dialect.quote_property and address is not None:
        facts[dialect.quote_property] = _socket_address(address)
    return json.dumps({"qom-type": "tdx-guest", **facts})


def _socket_address(address: str) -> dict[str, str]:
    """QEMU's ``SocketAddress`` of ``vsock:CID:PORT`` or ``unix:PATH``."""
    kind, _, rest = address.partition(":")
    if kind == "unix":
        return {"type": "unix", "path": rest}
    cid, _, port = rest.partition(":")
    return {"type": "vsock", "cid": cid, "port": port}


def _credentials(launch: Launch) -> list[str]:
    if launch.authorized_keys is None:
        return []
    name = "name=opt/io.systemd.credentials/ssh.authorized_keys.root"
    return ["-fw_cfg", option(name, {"file": launch.authorized_keys})]


def _debug(spec: TdSpec, launch: Launch) -> list[str]:
    if not spec.debug:
        return []
    character = option("socket", {"id": "gdb", "path": launch.gdb, "server": True, "wait": False})
    return ["-chardev", character, "-gdb", "chardev:gdb"]


def _extra(spec: TdSpec, launch: Launch) -> list[str]:
    words = [word for device in spec.devices for word in ("-device", device)]
    return [*words, "-incoming", "defer"] if launch.incoming else words


def _monitor(dialect: Dialect, launch: Launch) -> list[str]:
    character = option("socket", {"id": "qmp", "path": launch.qmp, "server": True, "wait": False})
    words = ["-chardev", character, "-mon", "chardev=qmp,mode=control", "-S"]
    # Where a TD cannot be reset in place, a reset ends the process and the supervisor makes the TD anew.
    return words if dialect.reboot is Reboot.RESET else [*words, "-action", "reboot=shutdown"]

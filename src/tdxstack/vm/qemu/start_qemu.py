"""The launcher of the white paper "Linux Stacks for Intel TDX 1.5" (section 3.2.3, table 4): its options, and what
QEMU 7.2 with the TDX 1.5 patches is given for them, argument for argument.

Where the paper's script had faults, this one differs: one monitor instead of three; a vsock CID that is free instead
of 3 for every TD; without a virtual console there is no display either; ports, digests and MAC addresses are checked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tdxstack.errors import UsageError
from tdxstack.vm.network import user_network
from tdxstack.vm.qemu.options import option
from tdxstack.vm.settings import read_size
from tdxstack.vm.spec import Boot, Console, Ima, TdAttributes, TdSpec, VmType

QEMU_PLACES = (Path("/usr/libexec/qemu-kvm"), Path("/usr/bin/qemu-system-x86_64"))
LEGACY_PLACES = (Path("/usr/share/qemu-kvm/bios.bin"), Path("/usr/share/seabios/bios.bin"))
FIRMWARE = Path("/usr/share/qemu/OVMF.fd")
DEBUG_FIRMWARE = Path("/usr/share/qemu/OVMF.debug.fd")
MEMORY = "2G"
#: The script compares MHz / 1024 with 1, and gives the TD a TSC of 1 GHz below.
SLOW_MEGAHERTZ = 1024.0
SLOW_TSC = "tsc-freq=1000000000"
QUOTES = ("tdvmcall", "vsock")


@dataclass(frozen=True, slots=True)
class Options:
    """The script's options by the letters of table 4, and the later -n -a -w -u."""

    image: Path = Path("td-guest.qcow2")
    kernel: Path = Path("vmlinuz")
    type: str = "td"
    boot: str = "direct"
    monitor_port: int = 9001
    ssh_port: int = 10026
    firmware: Path = FIRMWARE
    mac: str | None = None
    quote: str | None = None
    vcpus: int = 1
    root: str = "/dev/vda1"
    extra: str | None = None
    network: str = "10.0.2.0/24"
    dhcp_start: str = "10.0.2.15"
    mrownerconfig: str | None = None
    hugepages: str | None = None
    vsock: bool = False
    debug: bool = False
    serial: bool = False

    @property
    def wants_vsock(self) -> bool:
        return self.vsock or self.quote == "vsock"

    @property
    def boots_kernel(self) -> bool:
        return self.boot == "direct"

    def check(self) -> Options:
        """Raise UsageError for what the script did not check, or return self."""
        _port("-p", self.monitor_port)
        _port("-f", self.ssh_port)
        if self.monitor_port == self.ssh_port:
            raise UsageError(f"-p and -f both want port {self.ssh_port}", hint="give one of them another port")
        if self.vcpus < 1:
            raise UsageError(f"-c {self.vcpus} is no number of vCPUs", hint="-c 1")
        if self.mac is not None and not re.fullmatch(r"([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}", self.mac):
            raise UsageError(f"-m {self.mac} is not a MAC address", hint="-m 52:54:00:12:34:56")
        if self.mrownerconfig is not None:
            if self.type != "td":
                raise UsageError("-w is for TDs only", hint="leave -w out, or use -t td")
            if not re.fullmatch(r"[0-9A-Fa-f]{96}", self.mrownerconfig):
                raise UsageError(f"-w needs 96 hex digits, got {len(self.mrownerconfig)} characters", hint="-w HEX96")
        return self


DEFAULTS = Options()


@dataclass(frozen=True, slots=True)
class Machine:
    """What the script finds on the machine: paths, clock, image format, a free vsock CID, the log's name."""

    qemu: Path
    legacy_firmware: Path
    image_format: str
    log: Path
    vsock_cid: int = 3
    megahertz: float | None = None


def _port(letter: str, port: int) -> None:
    if not 0 < port <= 65535:
        raise UsageError(f"{letter} {port} is no port", hint=f"{letter} takes 1 to 65535")


def tdx15_argv(options: Options, machine: Machine) -> list[str]:
    """The argument list for QEMU 7.2 with the TDX 1.5 patches."""
    return [
        str(machine.qemu),
        *("-accel", "kvm", "-name", "process=tdxvm,debug-threads=on", "-m", MEMORY, "-vga", "none"),
        *("-no-hpet", "-nodefaults"),
        *("-drive", option(f"file={_escaped(options.image)}", {"if": "virtio", "format": machine.image_format})),
        *("-monitor", f"telnet:127.0.0.1:{options.monitor_port},server,nowait"),
        *(["-s", "-S"] if options.debug else []),
        *_firmware_and_objects(options, machine),
        *("-cpu", _cpu(options, machine), "-machine", _machine(options)),
        *_network(options),
        *("-smp", str(options.vcpus)),
        *(["-device", f"vhost-vsock-pci,guest-cid={machine.vsock_cid}"] if options.wants_vsock else []),
        *(["-kernel", str(options.kernel.resolve()), "-append", cmdline(options)] if options.boots_kernel else []),
        *_console(options, machine),
    ]


def _escaped(path: Path) -> str:
    return str(path.resolve()).replace(",", ",,")


def cmdline(options: Options) -> str:
    """The kernel's command line on direct boot."""
    words = [f"root={options.root}", "rw", "console=hvc0"]
    if options.debug:
        words.append("nokaslr")
    if options.extra:
        words.append(options.extra)
    return " ".join(words)


def _firmware_and_objects(options: Options, machine: Machine) -> list[str]:
    if options.type == "legacy":
        return ["-bios", str(machine.legacy_firmware)]
    words = ["-bios", str(DEBUG_FIRMWARE if options.debug else options.firmware)]
    if options.type == "efi":
        return words
    guest = "tdx-guest,sept-ve-disable=on,id=tdx"
    if options.quote == "tdvmcall":
        guest += ",quote-generation-service=vsock:2:4050"
    if options.mrownerconfig:
        guest += f",mrownerconfig={options.mrownerconfig}"
    if options.debug:
        guest += ",debug=on"
    return [*words, "-object", guest, *_memory(options)]


def _memory(options: Options) -> list[str]:
    private = {"id": "ram1", "size": MEMORY}
    if options.hugepages is None:
        return ["-object", option("memory-backend-memfd-private", private)]
    huge = {"id": "ramhuge", "size": MEMORY, "hugetlb": True, "hugetlbsize": "2M"}
    return [
        *("-object", option("memory-backend-memfd", huge)),
        *(
            "-object",
            option("memory-backend-memfd-private", {**private, "path": options.hugepages, "shmemdev": "ramhuge"}),
        ),
    ]


def _cpu(options: Options, machine: Machine) -> str:
    model = "host,-kvm-steal-time,pmu=off"
    slow = machine.megahertz is not None and machine.megahertz < SLOW_MEGAHERTZ
    return f"{model},{SLOW_TSC}" if slow and options.type == "td" else model


def _machine(options: Options) -> str:
    if options.type == "legacy":
        return "q35"
    machine = "q35,kernel_irqchip=split"
    return f"{machine},confidential-guest-support=tdx,memory-backend=ram1" if options.type == "td" else machine


def _network(options: Options) -> list[str]:
    card = option("virtio-net-pci", {"netdev": "mynet0", "mac": options.mac})
    user = {"id": "mynet0", "net": options.network, "dhcpstart": options.dhcp_start}
    return ["-device", card, "-netdev", option("user", {**user, "hostfwd": f"tcp::{options.ssh_port}-:22"})]


def _console(options: Options, machine: Machine) -> list[str]:
    if options.serial:
        return ["-serial", "stdio", "-display", "none"]
    return [
        *("-chardev", option("stdio", {"id": "mux", "mux": True, "logfile": machine.log})),
        *("-device", "virtio-serial,romfile=", "-device", "virtconsole,chardev=mux"),
        *("-serial", "chardev:mux", "-nographic"),
    ]


def _visible(text: str, options: Options) -> str:
    """The command line with its console where the machine has one: the script leaves ``console=hvc0`` with -s too."""
    return text.replace("console=hvc0", "console=ttyS0", 1) if options.serial else text


def network_fault(options: Options) -> str | None:
    """Why QEMU would refuse -n and -a, or None."""
    try:
        user_network(f"user:{options.network}:{options.dhcp_start}")
    except ValueError as error:
        return f"-n {options.network} -a {options.dhcp_start}: {error}"
    return None


def _network_setting(options: Options) -> str:
    if fault := network_fault(options):
        raise UsageError(fault, hint="give -a an address of -n")
    given = (options.network, options.dhcp_start)
    return "user" if given == (DEFAULTS.network, DEFAULTS.dhcp_start) else f"user:{given[0]}:{given[1]}"


def to_spec(options: Options, name: str, *, firmware: Path | None) -> TdSpec:
    """The same machine as a specification, for the other dialects; ``firmware`` None takes the one found here."""
    direct = options.boots_kernel
    return TdSpec(
        name=name,
        type=VmType(options.type),
        boot=Boot(options.boot),
        firmware=None if options.type == "legacy" else firmware,
        image=options.image.resolve(),
        kernel=options.kernel.resolve() if direct else None,
        cmdline=_visible(cmdline(options), options) if direct else None,
        ima=Ima.ON if any(word.startswith("ima_") for word in (options.extra or "").split()) else Ima.OFF,
        vcpus=options.vcpus,
        memory=read_size(MEMORY),
        hugepages=read_size("2M") if options.hugepages else 0,
        network=_network_setting(options),
        mac=options.mac.lower() if options.mac else None,
        ssh_port=options.ssh_port,
        vsock=options.wants_vsock,
        quote="auto" if options.type != "td" else (options.quote or "none"),
        mrownerconfig=bytes.fromhex(options.mrownerconfig) if options.mrownerconfig else bytes(48),
        attributes=int(TdAttributes.SEPT_VE_DISABLE),
        console=Console.SERIAL if options.serial else Console.HVC,
        debug=options.debug,
        overlay=False,
        transient=True,
    )

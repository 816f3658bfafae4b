"""A TdSpec in a dialect as libvirt's domain XML (https://libvirt.org/formatdomain.html).

What libvirt has no word for (the software platform's TPM and channel, forwarded ports without passt) goes into
``<qemu:commandline>``. Nothing is touched or started.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree as ET

from tdxstack.errors import PlatformMissing
from tdxstack.vm.dialects import Dialect
from tdxstack.vm.libvirt.launch_security import launch_security, refusals
from tdxstack.vm.network import is_user
from tdxstack.vm.qemu.argv import kernel_cmdline, network_words
from tdxstack.vm.qemu.launch import AGENT_PORT, Launch
from tdxstack.vm.spec import Boot, Console, TdSpec, VmType

QEMU_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"
SSH_CREDENTIAL = "opt/io.systemd.credentials/ssh.authorized_keys.root"
#: Our name of the virtio-serial bus, and libvirt's.
OWN_BUS, LIBVIRT_BUS = "bus=serial0.0", "bus=virtio-serial0.0"

__all__ = ["Identity", "build", "refusals"]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the domain is, and as whom its QEMU runs: ``labels`` are (security model, label), the label None for no
    confinement by that model.
    """

    uuid: str
    labels: tuple[tuple[str, str | None], ...] = ()


def build(spec: TdSpec, dialect: Dialect, launch: Launch, *, emulator: str, identity: Identity | None = None) -> str:
    """The domain's XML; ``emulator`` is the absolute path of QEMU.

    Raises:
        PlatformMissing: the firmware needs a flash of its own, which libvirt would write into the firmware file.
    """
    if launch.smm:
        raise PlatformMissing(
            f"TD {spec.name}: its firmware keeps variables in flash; libvirt would write them into {launch.firmware}",
            hint=f"start it under QEMU: tdxctl td start {spec.name}",
        )
    ET.register_namespace("qemu", QEMU_NAMESPACE)
    domain = ET.Element("domain", type="kvm" if launch.accelerator == "kvm" else "qemu")
    _text(domain, "name", spec.name)
    if identity is not None:
        _text(domain, "uuid", identity.uuid)
    _text(domain, "memory", str(spec.memory >> 10), unit="KiB")
    _memory_backing(domain, spec, dialect)
    _text(domain, "vcpu", str(spec.vcpus), placement="static")
    _firmware_settings(domain, launch)
    _os(domain, spec, launch)
    _features(domain, spec, dialect)
    _cpu(domain, spec, launch)
    _clock(domain)
    for event, action in (("poweroff", "destroy"), ("reboot", "restart"), ("crash", "destroy")):
        _text(domain, f"on_{event}", action)
    power = ET.SubElement(domain, "pm")
    ET.SubElement(power, "suspend-to-mem", enabled="no")
    ET.SubElement(power, "suspend-to-disk", enabled="no")
    _devices(domain, spec, launch, emulator)
    for model, label in identity.labels if identity is not None else ():
        _security_label(domain, model, label)
    if spec.type is VmType.TD and dialect.hardware:
        if dialect.has_allow_reboot:
            ET.SubElement(domain, "allowReboot", value="no")
        domain.append(launch_security(spec, dialect))
    _commandline(domain, spec, dialect, launch)
    ET.indent(domain)
    return ET.tostring(domain, encoding="unicode") + "\n"


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> ET.Element:
    element = ET.SubElement(parent, tag, attributes)
    element.text = text
    return element


#: Bytes from which on a machine without silicon gets memory that Linux does not account for before it is used:
#: libvirt cannot say ``reserve=off``, and a private mapping larger than the host's memory is refused.
LARGE = 8 << 30


def _security_label(domain: ET.Element, model: str, label: str | None) -> None:
    if label is None:
        ET.SubElement(domain, "seclabel", type="none", model=model)
        return
    element = ET.SubElement(domain, "seclabel", type="static", model=model, relabel="no")
    _text(element, "label", label)


def _memory_backing(domain: ET.Element, spec: TdSpec, dialect: Dialect) -> None:
    private = spec.type is VmType.TD and dialect.memory_backend == "memory-backend-memfd-private"
    large = spec.memory >= LARGE and not dialect.hardware
    if not private and not spec.hugepages and not large:
        return
    backing = ET.SubElement(domain, "memoryBacking")
    if large and not spec.hugepages:
        ET.SubElement(backing, "source", type="memfd")
        ET.SubElement(backing, "access", mode="shared")
        return
    if spec.hugepages:
        pages = ET.SubElement(backing, "hugepages")
        ET.SubElement(pages, "page", size=str(spec.hugepages >> 10), unit="KiB")
    ET.SubElement(backing, "source", type="memfd-private" if private else "memfd")


def _firmware_settings(domain: ET.Element, launch: Launch) -> None:
    """The ssh key, as a systemd credential in QEMU's fw_cfg."""
    if launch.authorized_keys is not None:
        sysinfo = ET.SubElement(domain, "sysinfo", type="fwcfg")
        ET.SubElement(sysinfo, "entry", name=SSH_CREDENTIAL, file=str(launch.authorized_keys))


def _os(domain: ET.Element, spec: TdSpec, launch: Launch) -> None:
    system = ET.SubElement(domain, "os")
    _text(system, "type", "hvm", arch="x86_64", machine="q35")
    if spec.type is not VmType.LEGACY and launch.firmware is not None:
        _text(system, "loader", str(launch.firmware), readonly="yes", type="rom")
    if spec.boot is Boot.GRUB or spec.kernel is None:
        ET.SubElement(system, "boot", dev="hd")
        return
    _text(system, "kernel", str(spec.kernel))
    if spec.initrd is not None:
        _text(system, "initrd", str(spec.initrd))
    if cmdline := kernel_cmdline(spec):
        _text(system, "cmdline", cmdline)


def _features(domain: ET.Element, spec: TdSpec, dialect: Dialect) -> None:
    features = ET.SubElement(domain, "features")
    ET.SubElement(features, "acpi")
    ET.SubElement(features, "apic")
    if dialect.hardware:
        ET.SubElement(features, "ioapic", driver="qemu")
    if "smm=off" in dialect.machine:
        ET.SubElement(features, "smm", state="off")


def _cpu(domain: ET.Element, spec: TdSpec, launch: Launch) -> None:
    mode = "host-passthrough" if launch.accelerator == "kvm" else "maximum"
    cpu = ET.SubElement(domain, "cpu", mode=mode)
    topology = {"sockets": spec.sockets, "cores": spec.cores, "threads": spec.threads}
    ET.SubElement(cpu, "topology", {name: str(count) for name, count in topology.items()})


def _clock(domain: ET.Element) -> None:
    clock = ET.SubElement(domain, "clock", offset="utc")
    ET.SubElement(clock, "timer", name="hpet", present="no")


def _devices(domain: ET.Element, spec: TdSpec, launch: Launch, emulator: str) -> None:
    devices = ET.SubElement(domain, "devices")
    _text(devices, "emulator", emulator)
    if launch.disk is not None:
        disk = ET.SubElement(devices, "disk", type="file", device="disk")
        ET.SubElement(disk, "driver", name="qemu", type=launch.disk_format, discard="unmap")
        ET.SubElement(disk, "source", file=str(launch.disk))
        ET.SubElement(disk, "target", dev="vda", bus="virtio")
    ET.SubElement(devices, "controller", type="virtio-serial", index="0")
    ET.SubElement(devices, "controller", type="usb", model="none")
    if spec.network.startswith("bridge:"):
        card = ET.SubElement(devices, "interface", type="bridge")
        ET.SubElement(card, "mac", address=launch.mac)
        ET.SubElement(card, "source", bridge=spec.network.partition(":")[2])
        ET.SubElement(card, "model", type="virtio")
        ET.SubElement(card, "rom", enabled="no")
    _consoles(devices, spec, launch)
    channel = ET.SubElement(devices, "channel", type="unix")
    ET.SubElement(channel, "source", mode="bind", path=str(launch.agent))
    ET.SubElement(channel, "target", type="virtio", name=AGENT_PORT)
    if launch.vsock_cid is not None:
        vsock = ET.SubElement(devices, "vsock", model="virtio")
        ET.SubElement(vsock, "cid", auto="no", address=str(launch.vsock_cid))
    ET.SubElement(devices, "memballoon", model="none")
    rng = ET.SubElement(devices, "rng", model="virtio")
    _text(rng, "backend", "/dev/urandom", model="random")


def _consoles(devices: ET.Element, spec: TdSpec, launch: Launch) -> None:
    if spec.console is Console.SERIAL:
        serial = ET.SubElement(devices, "serial", type="unix")
        ET.SubElement(serial, "source", mode="bind", path=str(launch.console))
        ET.SubElement(serial, "log", file=str(launch.console_log), append="on")
        ET.SubElement(serial, "target", type="isa-serial", port="0")
        return
    firmware = ET.SubElement(devices, "serial", type="file")
    ET.SubElement(firmware, "source", path=str(launch.firmware_log))
    ET.SubElement(firmware, "target", type="isa-serial", port="0")
    first = ET.SubElement(devices, "console", type="file")
    ET.SubElement(first, "source", path=str(launch.firmware_log))
    ET.SubElement(first, "target", type="serial", port="0")
    console = ET.SubElement(devices, "console", type="unix")
    ET.SubElement(console, "source", mode="bind", path=str(launch.console))
    ET.SubElement(console, "log", file=str(launch.console_log), append="on")
    ET.SubElement(console, "target", type="virtio", port="1")


def _commandline(domain: ET.Element, spec: TdSpec, dialect: Dialect, launch: Launch) -> None:
    # What the dialect's CPU is to have more than the host's: libvirt's own -cpu comes first, and the last one counts.
    own_cpu = spec.type is VmType.TD and dialect.cpu != "host" and launch.accelerator == "kvm"
    words = ["-cpu", dialect.cpu] if own_cpu else []
    words += [word.replace(OWN_BUS, LIBVIRT_BUS) for word in launch.platform_arguments]
    if is_user(spec.network):
        words += network_words(spec, launch)
    words += [word for device in spec.devices for word in ("-device", device)]
    if spec.debug:
        words += ["-gdb", f"unix:path={launch.gdb},server=on,wait=off"]
    if not words:
        return
    commandline = ET.SubElement(domain, f"{{{QEMU_NAMESPACE}}}commandline")
    for flag, word in pairwise(["", *words]):
        value = device_json(word) if flag == "-device" else word
        ET.SubElement(commandline, f"{{{QEMU_NAMESPACE}}}arg", value=value)


def device_json(text: str) -> str:
    """``-device``'s ``driver,key=value,...`` as JSON, as libvirt writes its own.

    QEMU makes the devices that are not JSON first: before the buses that libvirt makes, and in the slots that libvirt
    gave to others. Numbers and on/off lose their quotes, a comma is written twice.
    """
    if text.startswith("{"):
        return text
    driver, *pairs = text.replace(",,", "\0").split(",")
    facts: dict[str, Any] = {"driver": driver}
    for pair in pairs:
        key, _, value = pair.replace("\0", ",").partition("=")
        facts[key] = _typed(value)
    return json.dumps(facts)


def _typed(value: str) -> str | int | bool:
    if value in ("on", "off"):
        return value == "on"
    return int(value) if value.isdecimal() else value

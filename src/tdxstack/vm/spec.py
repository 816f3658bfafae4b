"""``TdSpec``: everything a user can want of a TD. Each setting is declared once, here.

The command line's options, the TOML file, the JSON in a TD's record, the JSON Schema and the reference page all come
from these declarations.
"""

# ruff: noqa: RUF009 - each setting calls `_setting`, which is dataclasses.field with its metadata filled in

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntFlag
from pathlib import Path
from typing import Any

from tdxstack.errors import UsageError
from tdxstack.vm import settings as kind
from tdxstack.vm.network import NETWORK, PORT_FORWARD, QUOTE_PATH, PortForward
from tdxstack.vm.settings import Codec, Setting

MIB = 1 << 20
SYSTEM_URI = "qemu:///system"


class VmType(Enum):
    """What kind of machine: a trust domain, or the same machine without TDX (to compare with)."""

    TD = "td"
    EFI = "efi"
    LEGACY = "legacy"


class Boot(Enum):
    """What the firmware starts: a kernel handed over by QEMU, the disk's boot loader, or a unified kernel image."""

    DIRECT = "direct"
    GRUB = "grub"
    UKI = "uki"


class Console(Enum):
    """Where the guest's console is: the UART (ttyS0), which the firmware uses too, or a virtio console (hvc0)."""

    SERIAL = "serial"
    HVC = "hvc"


class Accelerator(Enum):
    """How instructions run; ``auto`` takes KVM where a machine really starts with it."""

    AUTO = "auto"
    KVM = "kvm"
    TCG = "tcg"


class Via(Enum):
    """What drives the machine: QEMU directly, or libvirt."""

    QEMU = "qemu"
    LIBVIRT = "libvirt"


class Ima(Enum):
    """What the guest's kernel measures by IMA with SHA-384, entry by entry into RTMR2; ``on``: no built-in policy."""

    OFF = "off"
    ON = "on"
    CRITICAL_DATA = "critical_data"
    TCB = "tcb"


class TdAttributes(IntFlag):
    """TD ATTRIBUTES (Intel TDX Module 1.5 ABI specification, TD_PARAMS); unknown bits are kept."""

    DEBUG = 1 << 0
    SEPT_VE_DISABLE = 1 << 28
    MIGRATABLE = 1 << 29
    PKS = 1 << 30
    KL = 1 << 31
    PERFMON = 1 << 63


def _setting(codec: Codec, text: str, default: Any = None, *, repeated: bool = False) -> Any:
    return field(default=default, metadata={"codec": codec, "help": text, "repeated": repeated})


@dataclass(frozen=True, slots=True, kw_only=True)
class TdSpec:
    """A TD as its user wants it. Sizes in bytes, MR* as 48 bytes, paths absolute.

    Build it with ``TdSpec(...)``, ``from_mapping`` or ``vm.spec_file.read``; ``spec_rules.checked`` tells
    what contradicts itself.
    """

    name: str = field(metadata={"codec": kind.TD_NAME, "help": "name of the TD", "repeated": False})
    platform: str = _setting(kind.TD_NAME, "platform it runs on (tdxctl platform list)", "software")
    type: VmType = _setting(kind.choice(VmType), "trust domain, or a plain machine with or without UEFI", VmType.TD)
    boot: Boot = _setting(kind.choice(Boot), "what the firmware starts", Boot.DIRECT)
    firmware: Path | None = _setting(kind.PATH, "TDVF or OVMF file (default: the one found on this machine)")
    image: Path | None = _setting(kind.PATH, "disk image, qcow2 or raw; td create takes an image's name too")
    overlay: bool = _setting(kind.FLAG, "write to an overlay and never to the image itself", True)
    kernel: Path | None = _setting(kind.PATH, "kernel, or unified kernel image with boot=uki")
    initrd: Path | None = _setting(kind.PATH, "initial RAM disk")
    cmdline: str | None = _setting(kind.TEXT, "kernel command line; measured, taken as it stands")
    ima: Ima = _setting(
        kind.choice(Ima), "IMA with SHA-384: on (the image's own policy), critical_data or tcb; into RTMR2", Ima.OFF
    )
    vcpus: int = _setting(kind.INTEGER, "virtual CPUs", 1)
    sockets: int = _setting(kind.INTEGER, "CPU sockets; vcpus must divide by it", 1)
    threads: int = _setting(kind.INTEGER, "threads of a core; vcpus must divide by sockets times threads", 1)
    memory: int = _setting(kind.SIZE, "memory", 2048 * MIB)
    hugepages: int = _setting(kind.SIZE, "size of the huge pages that back the memory (2M, 1G); 0 for none", 0)
    network: str = _setting(NETWORK, "network behind the guest's card", "user")
    mac: str | None = _setting(kind.MAC_ADDRESS, "MAC address (default: made from the name)")
    ssh_port: int = _setting(kind.INTEGER, "port of 127.0.0.1 that reaches the guest's port 22; 0 chooses one", 0)
    ports: tuple[PortForward, ...] = _setting(PORT_FORWARD, "further port to forward", (), repeated=True)
    vsock: bool = _setting(kind.FLAG, "give the guest a vsock device", False)
    vsock_cid: int = _setting(kind.INTEGER, "vsock CID (from 3); 0 chooses one", 0)
    quote: str = _setting(QUOTE_PATH, "how the guest asks for quotes", "auto")
    attributes: int = _setting(kind.HEXADECIMAL, "TD ATTRIBUTES", int(TdAttributes.SEPT_VE_DISABLE))
    mrconfigid: bytes = _setting(kind.DIGEST, "MRCONFIGID", bytes(48))
    mrowner: bytes = _setting(kind.DIGEST, "MROWNER", bytes(48))
    mrownerconfig: bytes = _setting(kind.DIGEST, "MROWNERCONFIG", bytes(48))
    tpm: bool = _setting(kind.FLAG, "give a plain machine (type efi) a TPM; a software TD has one anyway", False)
    console: Console = _setting(kind.choice(Console), "where the guest's console is", Console.SERIAL)
    debug: bool = _setting(
        kind.FLAG, "stop before the first instruction, gdb stub on a socket, TD attribute DEBUG", False
    )
    devices: tuple[str, ...] = _setting(kind.TEXT, "further device, as QEMU's -device takes it", (), repeated=True)
    ssh_keys: tuple[Path, ...] = _setting(kind.PATH, "further public key that may log in as root", (), repeated=True)
    accelerator: Accelerator = _setting(kind.choice(Accelerator), "how instructions run", Accelerator.AUTO)
    dialect: str = _setting(kind.TEXT, "auto, software, tdx15, canonical or upstream", "auto")
    qemu: str = _setting(kind.TEXT, "QEMU binary", "qemu-system-x86_64")
    via: Via = _setting(kind.choice(Via), "what drives the machine: QEMU directly, or libvirt", Via.QEMU)
    connect: str = _setting(kind.TEXT, "libvirt's connection URI, with via=libvirt", SYSTEM_URI)
    autostart: bool = _setting(kind.FLAG, "start with the host (tdxctl td autostart)", False)
    transient: bool = _setting(kind.FLAG, "forget the TD when it stops", False)

    @property
    def cores(self) -> int:
        """Cores of a socket."""
        return self.vcpus // (self.sockets * self.threads)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, base: Path | None = None) -> TdSpec:
        """A spec from what TOML, JSON or options hold; relative paths are taken from ``base`` (default: here).

        Raises:
            UsageError: an unknown setting, or a value that is none; the settings are not yet checked together.
        """
        known = {setting.name: setting for setting in SETTINGS}
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise UsageError(f"unknown setting: {', '.join(unknown)}", hint="see `tdxctl td schema` for all settings")
        if "name" not in values:
            raise UsageError("the TD has no name", hint='write name = "demo", or give a name on the command line')
        start = base if base is not None else Path.cwd()
        return cls(**{name: _read(known[name], value, start) for name, value in values.items() if value is not None})

    def to_mapping(self) -> dict[str, Any]:
        """Every setting that differs from its default, as TOML and JSON hold it; the name always."""
        written: dict[str, Any] = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if value is None or (value == item.default and item.name != "name"):
                continue
            write = item.metadata["codec"].write
            written[item.name] = [write(one) for one in value] if item.metadata["repeated"] else write(value)
        return written


def _read(setting: Setting, value: Any, base: Path) -> Any:
    try:
        if not setting.repeated:
            return _absolute(setting.codec.read(value), base)
        if not isinstance(value, list | tuple):
            raise ValueError(f"{value!r} is not a list")
        return tuple(_absolute(setting.codec.read(one), base) for one in value)
    except ValueError as error:
        raise UsageError(f"{setting.name}: {error}", hint=f"{setting.name} is: {setting.help}") from None


def _absolute(value: Any, base: Path) -> Any:
    return (base / value).absolute() if isinstance(value, Path) else value


SETTINGS: tuple[Setting, ...] = tuple(
    Setting(item.name, item.metadata["codec"], item.metadata["help"], item.metadata["repeated"])
    for item in dataclasses.fields(TdSpec)
)


def default_of(name: str) -> Any:
    """The default of a setting as TOML would hold it, or None."""
    item = next(item for item in dataclasses.fields(TdSpec) if item.name == name)
    if item.default is dataclasses.MISSING or item.default is None or item.default == ():
        return None
    return item.metadata["codec"].write(item.default)


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a spec as ``from_mapping`` takes it."""
    properties: dict[str, Any] = {}
    for setting in SETTINGS:
        entry = {**setting.codec.schema, "description": setting.help}
        if setting.repeated:
            entry = {"type": "array", "items": dict(setting.codec.schema), "description": setting.help}
        if (default := default_of(setting.name)) is not None:
            entry["default"] = default
        properties[setting.name] = entry
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "tdxstack TD specification",
        "type": "object",
        "required": ["name"],
        "additionalProperties": False,
        "properties": properties,
    }

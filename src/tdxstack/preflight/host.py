"""A host as checks see it: facts read once, each on first use."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property

from tdxstack.platform.linux_host_files import HostFiles, HostReadError
from tdxstack.platform.linux_host_source import Answer, HostSource, QemuFacts
from tdxstack.platform.package_lists import os_release, read_dpkg_status, read_rpm_list
from tdxstack.preflight import dmidecode, facts
from tdxstack.preflight.dmidecode import Hardware
from tdxstack.preflight.domain_files import TdDomain, td_domains
from tdxstack.preflight.facts import CommandLine, CpuInfo, TdxLog
from tdxstack.preflight.firmware_files import FirmwareFile, firmware_files
from tdxstack.preflight.msr import Register
from tdxstack.wire.smbios import SmbiosTable

DMI_TABLE = "/sys/firmware/dmi/tables/DMI"
STACK_1_5_MODULE = "/sys/firmware/tdx/tdx_module"
UPSTREAM_MODULE = "/sys/devices/faux/tdx_host"
#: Where a module is uploaded: upstream's name, and that of its drafts.
UPSTREAM_UPLOADS = ("/sys/class/firmware/tdx_module", "/sys/class/firmware/seamldr_upload")
#: Where P-SEAMLDR's version stands, likewise.
LOADER_VERSIONS = (f"{UPSTREAM_MODULE}/seamldr_version", f"{UPSTREAM_MODULE}/seamldr/version")
#: CPUs whose registers are compared; settings are per package, and a difference shows on the first and the last.
MSR_SAMPLE = 64


#: QEMU has the tdx-guest object from here on.
FIRST_QEMU = (10, 1)
#: QEMU resets a TD in place from here on.
FIRST_QEMU_RESET = (11,)
#: libvirt knows TDX from here on.
FIRST_LIBVIRT = (11, 6)
#: Properties that tell the dialects of the object apart.
UPSTREAM_PROPERTIES = ("attributes", "quote-generation-socket", "sept-ve-disable")
STACK_1_5_PROPERTIES = ("debug", "migtd-pid", "quote-generation-service", "sept-ve-disable", "vsockport")


class World(StrEnum):
    """Which TDX host stack the kernel has."""

    STACK_1_5 = "1.5"
    UPSTREAM = "upstream"
    UNKNOWN = "unknown"


def running(host: Host) -> bool:
    """Whether the kernel says that a TDX module is initialised."""
    if host.files.text_or_none(f"{STACK_1_5_MODULE}/status") == "initialized":
        return True
    try:
        return host.log.initialized
    except HostReadError:
        return False


class Host:
    """Facts of one host. Each may raise what reading or parsing it raises; a check lets that through."""

    def __init__(self, source: HostSource) -> None:
        self.source = source

    @property
    def files(self) -> HostFiles:
        return self.source.files

    @cached_property
    def cpu(self) -> CpuInfo:
        return CpuInfo.parse(self.files.text("/proc/cpuinfo"))

    @cached_property
    def command_line(self) -> CommandLine:
        return CommandLine.parse(self.files.text("/proc/cmdline", limit=1 << 16))

    @cached_property
    def log(self) -> TdxLog:
        return facts.read_log(self.source.dmesg())

    @cached_property
    def smbios(self) -> Hardware:
        try:
            return Hardware.from_table(DMI_TABLE, SmbiosTable.from_bytes(self.files.read(DMI_TABLE)))
        except HostReadError as error:
            printed = self.source.dmidecode() if error.missing else None
            if printed is None:
                raise
            return dmidecode.read(*printed)

    @cached_property
    def kernel(self) -> str:
        try:
            return self.files.text("/proc/sys/kernel/osrelease").strip()
        except HostReadError as error:
            told = self._told_kernel()
            if not error.missing or told is None:
                raise
            return told

    def _told_kernel(self) -> str | None:
        """The release by /proc/version or the kernel log."""
        line = facts.read_log(self.files.text_or_none("/proc/version") or "").kernel
        try:
            return line or self.log.kernel
        except HostReadError:
            return None

    @cached_property
    def os_release(self) -> Mapping[str, str]:
        return os_release(self.files)

    @cached_property
    def qemu(self) -> QemuFacts | None:
        asked = self.source.qemu()
        return asked if asked or self.source.tells(Answer.QEMU) else self._packaged_qemu()

    def _packaged_qemu(self) -> QemuFacts | None:
        """A tree that nobody asked QEMU for: the version of its package, and the dialect that this version speaks."""
        named = self.package("qemu-system-x86", "qemu-kvm", "qemu-kvm-core", "intel-mvp-tdx-qemu-kvm")
        if named is None:
            return None
        name, text = named.split(" ", 1)
        patched = any(sign in f"{name} {text}".lower() for sign in ("tdx", "mvp", "kobuk"))
        number = facts.version(text.split(":", 1)[-1])
        speaks = UPSTREAM_PROPERTIES if number >= FIRST_QEMU or patched else None
        return QemuFacts(f"package {named}", facts.dotted(number), STACK_1_5_PROPERTIES if "mvp" in name else speaks)

    @cached_property
    def domain_capabilities(self) -> str | None:
        return self.source.domain_capabilities()

    @cached_property
    def services(self) -> Mapping[str, str]:
        return self.source.services()

    @cached_property
    def packages(self) -> Mapping[str, str]:
        """Installed packages, name -> version; empty where neither dpkg nor RPM keeps any."""
        try:
            return read_dpkg_status(self.files.text("/var/lib/dpkg/status", limit=64 << 20))
        except HostReadError as error:
            if not error.missing:
                raise
        listed = self.source.rpm_packages()
        return read_rpm_list(listed) if listed else {}

    @cached_property
    def td_domains(self) -> tuple[TdDomain, ...]:
        return tuple(td_domains(self.files))

    @cached_property
    def firmware(self) -> tuple[FirmwareFile, ...]:
        """Firmware files where distributions put them, then those that TDs name."""
        return tuple(firmware_files(self.files, [one.loader for one in self.td_domains if one.loader]))

    @cached_property
    def world(self) -> World:
        if self.files.exists(STACK_1_5_MODULE):
            return World.STACK_1_5
        if any(self.files.exists(path) for path in (UPSTREAM_MODULE, *UPSTREAM_UPLOADS)):
            return World.UPSTREAM
        try:
            log = self.log
        except HostReadError:
            return World.UNKNOWN
        if log.upstream:
            return World.UPSTREAM
        return World.STACK_1_5 if log.stack_1_5 else World.UNKNOWN

    @property
    def kvm_tdx(self) -> str | None:
        """``Y`` or ``N`` as KVM says, None where this KVM does not know TDX or is not loaded."""
        return self.files.text_or_none("/sys/module/kvm_intel/parameters/tdx")

    def bits(self, register: Register, high: int, low: int) -> dict[int, int]:
        """CPU -> bits ``high``:``low`` of a register, on up to 64 CPUs.

        Raises:
            HostReadError: a register that cannot be read.
        """
        cpus = list(self.source.cpus())
        step = max(1, len(cpus) // MSR_SAMPLE)
        chosen = sorted({*cpus[::step], *cpus[-1:]})
        return {cpu: self._msr(cpu, register) >> low & ((1 << (high - low + 1)) - 1) for cpu in chosen}

    def _msr(self, cpu: int, register: Register) -> int:
        key = cpu, int(register)
        if key not in self._registers:
            self._registers[key] = self.source.msr(cpu, register)
        return self._registers[key]

    @cached_property
    def _registers(self) -> dict[tuple[int, int], int]:
        return {}

    @property
    def libvirt_package(self) -> str | None:
        """``name version`` of libvirt's package, or None."""
        server = ("libvirt-daemon-system", "libvirt-daemon", "libvirt-daemon-driver-qemu")
        return self.package(*server, "intel-mvp-tdx-libvirt")

    def package(self, *names: str) -> str | None:
        """``name version`` of the first of these packages that is installed, or None."""
        for name in names:
            if name in self.packages:
                return f"{name} {self.packages[name]}"
        return None

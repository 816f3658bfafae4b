"""A host as checks see it: facts read once, each on first use."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property

from tdxstack.platform.linux_host_files import HostFiles, HostReadError
from tdxstack.platform.linux_host_source import HostSource, QemuFacts
from tdxstack.platform.package_lists import os_release, read_dpkg_status, read_rpm_list
from tdxstack.preflight import facts
from tdxstack.preflight.facts import CommandLine, CpuInfo, TdxLog
from tdxstack.preflight.msr import Register
from tdxstack.wire.smbios import SmbiosTable

DMI_TABLE = "/sys/firmware/dmi/tables/DMI"
STACK_1_5_MODULE = "/sys/firmware/tdx/tdx_module"
UPSTREAM_MODULE = "/sys/devices/faux/tdx_host"
#: CPUs whose registers are compared; settings are per package, and a difference shows on the first and the last.
MSR_SAMPLE = 64


class World(StrEnum):
    """Which TDX host stack the kernel has."""

    STACK_1_5 = "1.5"
    UPSTREAM = "upstream"
    UNKNOWN = "unknown"


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
    def smbios(self) -> SmbiosTable:
        return SmbiosTable.from_bytes(self.files.read(DMI_TABLE))

    @cached_property
    def kernel(self) -> str:
        return self.files.text("/proc/sys/kernel/osrelease").strip()

    @cached_property
    def os_release(self) -> Mapping[str, str]:
        return os_release(self.files)

    @cached_property
    def qemu(self) -> QemuFacts | None:
        return self.source.qemu()

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
    def world(self) -> World:
        if self.files.exists(STACK_1_5_MODULE):
            return World.STACK_1_5
        if self.files.exists(UPSTREAM_MODULE):
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

    def package(self, *names: str) -> str | None:
        """``name version`` of the first of these packages that is installed, or None."""
        for name in names:
            if name in self.packages:
                return f"{name} {self.packages[name]}"
        return None

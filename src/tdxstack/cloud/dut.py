"""The device under test: what this host's processor, kernel and network can do."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from tdxstack.errors import SystemFault
from tdxstack.platform.linux_host_files import HostReadError
from tdxstack.platform.linux_host_source import HostSource, LiveHost

KHZ_PER_MHZ = 1000
BASE_FREQUENCY = "/sys/devices/system/cpu/cpu0/cpufreq/base_frequency"
NODE = "/sys/devices/system/node"


class DUT:
    """Asks one host. ``host`` is this machine, or a captured one.

    Every method tells what it finds; a file that is missing is a False or None, one that cannot be read an error.
    """

    def __init__(self, host: HostSource | None = None) -> None:
        self._host = host if host is not None else LiveHost()

    def support_tdx(self) -> bool:
        """Whether KVM was loaded with TDX on a CPU that has it."""
        return self._host.files.text_or_none("/sys/module/kvm_intel/parameters/tdx") in ("Y", "1")

    def support_sgx(self) -> bool:
        """Whether the CPU has SGX, as the kernel sees it."""
        return "sgx" in self.cpu_flags()

    def support_amx(self) -> bool:
        """Whether the CPU has AMX tiles."""
        return "amx_tile" in self.cpu_flags()

    def cpu_flags(self) -> frozenset[str]:
        """Flags of the first CPU in /proc/cpuinfo."""
        return frozenset((self._cpuinfo("flags") or "").split())

    def cpu_count(self) -> int:
        """CPUs that this process may use."""
        return len(self._host.cpus())

    def cmdline_contains(self, field: str) -> bool:
        """Whether the kernel was started with exactly this field."""
        from tdxstack.cloud.vmparam import KernelCmdline

        return KernelCmdline(self._host.files.text("/proc/cmdline").strip()).is_field_exists(field)

    def file_contains(self, path: str, text: str) -> bool:
        """Whether a file of the host holds ``text``."""
        return text in self._host.files.text(path)

    def get_cpu_base_freq(self) -> float | None:
        """Base frequency of CPU 0 in MHz, by cpufreq, else by the model's name; None where neither says."""
        khz = self._host.files.text_or_none(BASE_FREQUENCY)
        if khz is not None and khz.isdigit():
            return int(khz) / KHZ_PER_MHZ
        _, found, clock = (self._cpuinfo("model name") or "").rpartition("@")
        number = clock.strip().removesuffix("GHz")
        try:
            return float(number) * 1000 if found else None
        except ValueError:
            return None

    def get_distro(self) -> str:
        """``ID`` of /etc/os-release: ``debian``, ``ubuntu``, ``rhel`` ...; empty where it is not said."""
        for line in (self._host.files.text_or_none("/etc/os-release") or "").splitlines():
            key, _, value = line.partition("=")
            if key == "ID":
                return value.strip().strip('"')
        return ""

    def get_cpuids_group(self) -> list[list[int]]:
        """The CPUs of each NUMA node, in the nodes' order."""
        nodes = [name for name in self._host.files.names(NODE) if name.startswith("node") and name[4:].isdigit()]
        lists = [
            self._host.files.text(f"{NODE}/{name}/cpulist") for name in sorted(nodes, key=lambda name: int(name[4:]))
        ]
        return [_cpu_list(text) for text in lists]

    @staticmethod
    def check_port(port: int, host: str = "127.0.0.1") -> bool:
        """Whether something listens on a TCP port."""
        try:
            with socket.create_connection((host, port), timeout=5):
                return True
        except OSError:
            return False

    @staticmethod
    def find_free_port(start: int = 10000, end: int = 65535) -> int:
        """The first TCP port of 127.0.0.1 from ``start`` to ``end`` that can be bound. Bind it soon: others may too.

        Raises:
            SystemFault: all are taken.
        """
        for port in range(start, end + 1):
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
                return port
        raise SystemFault(f"no free port from {start} to {end}", hint="ss -lnt")

    def _cpuinfo(self, wanted: str) -> str | None:
        try:
            lines: Sequence[str] = self._host.files.text("/proc/cpuinfo").splitlines()
        except HostReadError as error:
            if error.missing:
                return None
            raise
        for line in lines:
            key, _, value = line.partition(":")
            if key.strip() == wanted:
                return value.strip()
        return None


def _cpu_list(text: str) -> list[int]:
    """``0-3,8`` as [0, 1, 2, 3, 8]."""
    cpus: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            cpus += range(int(first), int(last or first) + 1)
    return cpus

"""Model-specific registers of this host's CPUs, through the kernel's ``msr`` driver."""

from __future__ import annotations

from tdxstack.errors import UsageError
from tdxstack.platform.linux_host_source import HostSource, LiveHost

MSR_BITS = 64


class MSR:
    """Reads and writes MSRs; needs root and the kernel module ``msr``."""

    def __init__(self, host: HostSource | None = None) -> None:
        self._host = host if host is not None else LiveHost()

    def readmsr(self, msr: int, highbit: int = MSR_BITS - 1, lowbit: int = 0, cpu: int = 0) -> int:
        """Bits ``highbit`` to ``lowbit`` of register ``msr`` on one CPU, shifted down.

        Raises:
            UsageError: bits that are none of a 64-bit register's.
            HostReadError: no such register or CPU, no driver, no privilege.
        """
        if not 0 <= lowbit <= highbit < MSR_BITS:
            raise UsageError(
                f"bits {highbit}:{lowbit} are not in a 64-bit register", hint="e.g. readmsr(0x1401, 11, 11)"
            )
        return self._host.msr(cpu, msr) >> lowbit & ((1 << (highbit - lowbit + 1)) - 1)

    def readmsr_all(self, msr: int, highbit: int = MSR_BITS - 1, lowbit: int = 0) -> dict[int, int]:
        """The same bits on every CPU: CPU number -> value."""
        return {cpu: self.readmsr(msr, highbit, lowbit, cpu) for cpu in self._host.cpus()}

    def dangerous_writemsr(self, msr: int, value: int, cpu: int = 0) -> None:
        """Write a whole register on one CPU. A wrong value can hang or damage the machine; nothing is undone.

        Raises:
            UsageError: the value does not fit.
            HostReadError: no such register or CPU, no driver, no privilege, or the value is refused.
        """
        from tdxstack.platform.linux_host_source import dangerous_write_msr

        if not 0 <= value < 1 << MSR_BITS:
            raise UsageError(f"{value:#x} does not fit in 64 bits", hint="give the whole register")
        dangerous_write_msr(cpu, msr, value)

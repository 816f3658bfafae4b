"""The model-specific registers that say how the firmware set TDX up, and how a check reads one.

Numbers and bits: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 4; Intel Architecture Memory
Encryption Technologies Specification; Intel CPU Architectural Extensions for TDX (343754).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tdxstack.preflight.host import Host


class Register(IntEnum):
    """MSR numbers."""

    IA32_FEATURE_CONTROL = 0x3A
    IA32_MKTME_KEYID_PARTITIONING = 0x87
    SGX_MCHECK_STATUS = 0xA0
    PLATFORM_INFO = 0xCE
    IA32_MTRRCAP = 0xFE
    SGX_SVN_STATUS = 0x500
    IA32_TME_CAPABILITY = 0x981
    IA32_TME_ACTIVATE = 0x982
    IA32_SEAMRR_PHYS_BASE = 0x1400
    IA32_SEAMRR_PHYS_MASK = 0x1401


#: What ``tdxctl host capture`` keeps.
CAPTURED = tuple(Register)


def describe(register: Register, high: int, low: int) -> str:
    """``MSR 0x982[1]`` or ``MSR 0x981[50:36]``."""
    span = str(low) if high == low else f"{high}:{low}"
    return f"MSR {register:#x}[{span}]"


def field(
    host: Host, register: Register, high: int, low: int, good: Callable[[int], bool]
) -> tuple[bool, str, dict[int, int]]:
    """Read a field on the CPUs; (holds on all, evidence, values)."""
    values = host.bits(register, high, low)
    distinct = sorted(set(values.values()))
    name = describe(register, high, low)
    if len(distinct) == 1:
        return good(distinct[0]), f"{name} = {distinct[0]} on {len(values)} CPUs", values
    where = ", ".join(f"{value} on CPU {_first(values, value)}.." for value in distinct[:4])
    return all(map(good, distinct)), f"{name} differs between CPUs: {where}", values


def _first(values: dict[int, int], value: int) -> int:
    return next(cpu for cpu, found in values.items() if found == value)

"""The four ways to say "TDX" to a VMM, as data.

========== ============================================================ ========================================
dialect    who speaks it                                                source of its facts
========== ============================================================ ========================================
software   any QEMU; the software platform stands in for the CPU        this project
tdx15      QEMU 7.2 and libvirt 8.6 with Intel's TDX 1.5 patches        intel/tdx-tools, tag 2023ww38
canonical  QEMU 8.2 and 9.x of Ubuntu's TDX preview                     canonical/tdx
upstream   QEMU from 10.1, libvirt from 11.6, Linux from 6.16           qemu docs/system/i386/tdx.rst, tdx.c
========== ============================================================ ========================================

What a dialect cannot do is said before the launch, with its reason, by ``require``.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum

from tdxstack.errors import PlatformMissing, UsageError
from tdxstack.vm.spec import TdAttributes, TdSpec, VmType

ALL_ATTRIBUTES = (1 << 64) - 1
#: Where the quoting service of each stack listens, as its packages set it up.
QGS_VSOCK = "vsock:2:4050"
QGS_SOCKET = "unix:/var/run/tdx-qgs/qgs.socket"


class Reboot(Enum):
    """What a guest's reset does: the machine is reset in place, or has to be made anew."""

    RESET = "reset"
    RECREATE = "recreate"


@dataclass(frozen=True, slots=True)
class Dialect:
    """One dialect. ``attributes`` is the mask of TD attribute bits that can be asked of its QEMU.

    ``attribute_flags`` maps a bit to the boolean property that carries it where there is no ``attributes`` property.
    ``quote_kinds`` are the ways to the quoting service that it can express; None of them means the platform does it.
    ``quote_service`` is where that service listens if nothing else is said, as ``vsock:CID:PORT`` or ``unix:PATH``.
    ``has_allow_reboot``: its libvirt has the element ``allowReboot``.
    """

    name: str
    title: str
    hardware: bool
    encode_digest: Callable[[bytes], str]
    attributes: int
    attribute_flags: tuple[tuple[TdAttributes, str], ...]
    quote_property: str | None
    quote_kinds: frozenset[str]
    quote_service: str
    memory_backend: str
    has_allow_reboot: bool
    cpu: str
    hpet_option: tuple[str, ...]
    machine: str
    reboot: Reboot


def _hex(digest: bytes) -> str:
    return digest.hex()


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


SOFTWARE = Dialect(
    name="software",
    title="software TDX platform",
    hardware=False,
    encode_digest=_hex,
    attributes=ALL_ATTRIBUTES,
    attribute_flags=(),
    quote_property=None,
    quote_kinds=frozenset({"tdvmcall"}),
    quote_service="",
    memory_backend="memory-backend-ram",
    has_allow_reboot=False,
    cpu="host",
    hpet_option=(),
    machine="q35,hpet=off,smm=off",
    reboot=Reboot.RESET,
)

TDX15 = Dialect(
    name="tdx15",
    title="QEMU 7.2 with the TDX 1.5 patches",
    hardware=True,
    encode_digest=_hex,
    attributes=TdAttributes.SEPT_VE_DISABLE | TdAttributes.DEBUG,
    attribute_flags=((TdAttributes.SEPT_VE_DISABLE, "sept-ve-disable"), (TdAttributes.DEBUG, "debug")),
    quote_property="quote-generation-service",
    quote_kinds=frozenset({"tdvmcall", "vsock"}),
    quote_service=QGS_VSOCK,
    memory_backend="memory-backend-memfd-private",
    has_allow_reboot=True,
    cpu="host,-kvm-steal-time,pmu=off",
    hpet_option=("-no-hpet",),
    machine="q35,kernel_irqchip=split",
    reboot=Reboot.RECREATE,
)

CANONICAL = Dialect(
    name="canonical",
    title="QEMU of Ubuntu's TDX preview",
    hardware=True,
    encode_digest=_base64,
    attributes=int(TdAttributes.SEPT_VE_DISABLE),
    attribute_flags=((TdAttributes.SEPT_VE_DISABLE, "sept-ve-disable"),),
    quote_property="quote-generation-socket",
    quote_kinds=frozenset({"tdvmcall", "vsock", "unix"}),
    quote_service=QGS_VSOCK,
    memory_backend="memory-backend-ram",
    has_allow_reboot=True,
    cpu="host,-avx10",
    hpet_option=(),
    machine="q35,kernel_irqchip=split,hpet=off",
    reboot=Reboot.RECREATE,
)

UPSTREAM = Dialect(
    name="upstream",
    title="QEMU from 10.1",
    hardware=True,
    encode_digest=_base64,
    attributes=TdAttributes.SEPT_VE_DISABLE | TdAttributes.PKS | TdAttributes.PERFMON,
    attribute_flags=(),
    quote_property="quote-generation-socket",
    quote_kinds=frozenset({"tdvmcall", "vsock", "unix"}),
    quote_service=QGS_SOCKET,
    memory_backend="memory-backend-ram",
    has_allow_reboot=False,
    cpu="host",
    hpet_option=(),
    machine="q35,hpet=off,smm=off",
    reboot=Reboot.RECREATE,
)

DIALECTS: dict[str, Dialect] = {one.name: one for one in (SOFTWARE, TDX15, CANONICAL, UPSTREAM)}


#: From this version on upstream's QEMU makes a TD anew in its own process (``can_rebuild_guest_state`` of tdx.c).
RESETS_FROM = (11, 0, 0)


def of_version(dialect: Dialect, version: tuple[int, int, int]) -> Dialect:
    """The dialect as a QEMU of ``version`` speaks it: where a guest's reset is one in place."""
    if dialect is UPSTREAM and version >= RESETS_FROM:
        return replace(dialect, reboot=Reboot.RESET)
    return dialect


def by_name(name: str) -> Dialect:
    """The dialect called ``name``.

    Raises:
        UsageError: there is none.
    """
    if name not in DIALECTS:
        raise UsageError(f"no dialect {name!r}", hint=f"take one of auto, {', '.join(DIALECTS)}")
    return DIALECTS[name]


def refusals(spec: TdSpec, dialect: Dialect) -> Iterator[str]:
    """What ``spec`` asks for and ``dialect`` cannot do, each with its reason."""
    if spec.type is not VmType.TD:
        return
    for bit in range(64):
        if wanted_attributes(spec) >> bit & 1 and not dialect.attributes >> bit & 1:
            known = TdAttributes(1 << bit).name
            named = f" ({known})" if known else ""
            yield f"{dialect.title} refuses TD attribute bit {bit}{named}"
    kind = spec.quote.partition(":")[0]
    if kind in ("tdvmcall", "vsock", "unix") and kind not in dialect.quote_kinds:
        yield f"{dialect.title} cannot carry quotes by {kind}"
    if spec.hugepages and dialect.name in ("canonical", "upstream"):
        yield f"{dialect.title} cannot back private memory with huge pages"


def quote_address(spec: TdSpec, dialect: Dialect) -> str | None:
    """Where the VMM finds the quoting service, as ``vsock:CID:PORT`` or ``unix:PATH``; None for nowhere."""
    if spec.quote == "none":
        return None
    if spec.quote in ("auto", "tdvmcall"):
        return dialect.quote_service
    return QGS_VSOCK if spec.quote == "vsock" else spec.quote


def wanted_attributes(spec: TdSpec) -> int:
    """TD ATTRIBUTES with DEBUG where ``debug`` was asked for."""
    return spec.attributes | (int(TdAttributes.DEBUG) if spec.debug else 0)


def require(spec: TdSpec, dialect: Dialect) -> None:
    """Raise PlatformMissing if the dialect cannot do what the spec asks, naming every reason."""
    reasons = list(refusals(spec, dialect))
    if reasons:
        hint = "change the setting, or run it on the software platform (--dialect software)"
        raise PlatformMissing(f"TD {spec.name}: " + "; ".join(reasons), hint=hint)

"""The processor: is this a machine that can have TDX at all."""

from __future__ import annotations

from collections.abc import Callable

from tdxstack.platform.linux_host_files import HostReadError
from tdxstack.platform.linux_host_source import Answer
from tdxstack.preflight import msr
from tdxstack.preflight.checks.attestation import PCCS_CONFIGS, QCNL
from tdxstack.preflight.data import table
from tdxstack.preflight.host import Host, World
from tdxstack.preflight.model import Check, Finding, failed, passed, warned
from tdxstack.preflight.msr import Register

#: The provisioning service of pre-production parts.
SANDBOX = "sbx.api.trustedservices.intel.com"
BUY = (
    "TDX needs a 5th generation Xeon Scalable or Xeon 6 processor (or some of the 4th generation), bare metal. "
    "To work without such a machine use the software platform: tdxctl quickstart"
)


def model_name(family: int, model: int) -> tuple[str, str] | None:
    """(name, all or some) of a model that has TDX."""
    for entry in table("cpus")["model"]:
        if family == 6 and entry["number"] == model:
            return entry["name"], entry["parts"]
    return None


def _told(look: Callable[[Host], Finding]) -> Callable[[Host], Finding]:
    """In a tree that somebody copied together without /proc/cpuinfo, a kernel that speaks of TDX is the witness."""

    def seen(host: Host) -> Finding:
        try:
            return look(host)
        except HostReadError as error:
            if not error.missing or host.source.tells(Answer.PROCESSOR) or host.world is World.UNKNOWN:
                raise
            return warned("the tree keeps no /proc/cpuinfo", "add it to the tree")

    return seen


@_told
def _vendor(host: Host) -> Finding:
    cpu = host.cpu
    evidence = f"/proc/cpuinfo: {cpu.vendor or 'no vendor'}, {cpu.name or 'no model name'}"
    if cpu.vendor != "GenuineIntel":
        virtual = "; and a virtual machine (flag hypervisor)" if "hypervisor" in cpu.flags else ""
        return failed(f"{evidence}: not an Intel processor{virtual}")
    return passed(evidence)


@_told
def _bare_metal(host: Host) -> Finding:
    flags = host.cpu.flags
    if "tdx_guest" in flags:
        return failed("/proc/cpuinfo: flag tdx_guest: this machine is itself a TD", "run: tdxctl guest check")
    if "hypervisor" in flags:
        return failed("/proc/cpuinfo: flag hypervisor: this is a virtual machine", BUY)
    return passed("/proc/cpuinfo: no hypervisor flag: bare metal")


@_told
def _tdx(host: Host) -> Finding:
    cpu = host.cpu
    where = f"family {cpu.family}, model {cpu.model:#x}, stepping {cpu.stepping}"
    if "tdx_host_platform" in cpu.flags:
        return passed(f"{where}; /proc/cpuinfo: flag tdx_host_platform")
    try:
        seamrr, evidence, _ = msr.field(host, Register.IA32_MTRRCAP, 15, 15, bool)
    except HostReadError:
        seamrr, evidence = False, "MSR 0xfe could not be read"
    if seamrr:
        return passed(f"{where}; {evidence}: the processor has SEAM range registers")
    known = model_name(cpu.family, cpu.model)
    if known is None:
        return failed(f"{where}: not a model that has TDX; {evidence}")
    name, parts = known
    if parts == "some":
        return warned(
            f"{where}: {name}: only some parts have TDX; {evidence}", "ask your vendor whether this part has TDX"
        )
    return passed(f"{where}: {name}")


def _production(host: Host) -> Finding:
    try:
        live, evidence, _ = msr.field(host, Register.PLATFORM_INFO, 27, 27, lambda value: value == 0)
    except HostReadError as error:
        if error.missing:
            return warned(error.message)
        raise
    if live:
        return passed(f"{evidence}: production part (live provisioning service)")
    text = f"{evidence}: pre-production part"
    if _asks_sandbox(host):
        return warned(f"{text}, and the sandbox provisioning service is configured")
    return failed(f"{text}, and neither PCCS nor quote provider is set to the sandbox provisioning service")


def _asks_sandbox(host: Host) -> bool:
    texts = (host.files.text_or_none(path) or "" for path in (QCNL, *PCCS_CONFIGS))
    return any(SANDBOX in text for text in texts)


@_told
def _microcode(host: Host) -> Finding:
    revision = host.cpu.microcode
    if not revision:
        return warned("/proc/cpuinfo names no microcode revision")
    return passed(f"/proc/cpuinfo: microcode {revision}")


CHECKS = (
    Check(
        "cpu.microcode",
        "Microcode revision",
        _microcode,
        "a microcode revision is loaded",
        "the revision is part of the platform's TCB: an old one makes quotes OutOfDate",
        "install the distribution's package intel-microcode (microcode_ctl on RHEL) and update the BIOS",
        required=False,
    ),
    Check(
        "cpu.production",
        "Production processor",
        _production,
        "MSR 0xce[27] = 0",
        "quotes of pre-production parts chain to the sandbox root: production verifiers answer 0xe022",
        f"use production parts, or point PCCS and verifiers at {SANDBOX}",
    ),
)


def root(children: tuple[Check, ...]) -> Check:
    """The processor's checks as a chain; ``children`` are looked at only on a processor that has TDX."""
    tdx = Check(
        "cpu.tdx",
        "Processor model with TDX",
        _tdx,
        "a processor model with Intel TDX",
        "TDX is a feature of silicon",
        BUY,
        children=CHECKS + children,
    )
    bare_metal = Check(
        "cpu.bare_metal",
        "Bare metal",
        _bare_metal,
        "no hypervisor below this system",
        "TDs are started from VMX root mode, which a virtual machine does not have",
        BUY,
        children=(tdx,),
    )
    return Check(
        "cpu.vendor",
        "Intel processor",
        _vendor,
        "vendor GenuineIntel",
        "Intel TDX exists on Intel processors only",
        BUY,
        children=(bare_metal,),
    )

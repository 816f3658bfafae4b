"""The host kernel: version, KVM with TDX, and command line parameters."""

from __future__ import annotations

from tdxstack.platform.linux_host_source import Answer
from tdxstack.preflight import facts
from tdxstack.preflight.data import table
from tdxstack.preflight.host import Host, World, running
from tdxstack.preflight.model import Check, Finding, failed, judged, passed, warned

MINIMUM_UPSTREAM = (6, 16)
APPEND = "append it to GRUB_CMDLINE_LINUX in /etc/default/grub and run update-grub: tdxctl host install"


def _version(host: Host) -> Finding:
    release = host.kernel
    number = facts.version(release)
    world = host.world
    evidence = f"/proc/sys/kernel/osrelease: {release}; stack {world}"
    if number >= MINIMUM_UPSTREAM or world is not World.UNKNOWN:
        return passed(evidence)
    if "tdx" in release or "-intel" in release:
        return passed(f"{evidence}: a kernel with TDX patches")
    return failed(f"{evidence}: older than 6.16 and without TDX patches")


def _kvm(host: Host) -> Finding:
    value = host.kvm_tdx
    where = "/sys/module/kvm_intel/parameters/tdx"
    if value in ("Y", "1"):
        return passed(f"{where} = {value}")
    refusal = next((line for line in host.log.failures if "TDX" in line or "tdx" in line), None)
    because = f"; kernel log: {refusal}" if refusal else ""
    if value is None:
        if running(host) and not host.source.tells(Answer.DEVICES):
            return warned(f"the tree has no {where}; the TDX module is initialised")
        if not host.files.exists("/sys/module/kvm_intel"):
            return failed(f"{where} is absent: kvm_intel is not loaded{because}", "modprobe kvm_intel tdx=1")
        return failed(f"{where} is absent: this KVM has no TDX{because}", "boot a kernel with CONFIG_KVM_INTEL_TDX=y")
    return failed(f"{where} = {value}{because}")


def _virt_at_load(host: Host) -> Finding:
    value = host.files.text_or_none("/sys/module/kvm/parameters/enable_virt_at_load")
    if value is None:
        return passed("/sys/module/kvm/parameters/enable_virt_at_load is absent: its default is on")
    return judged(value in ("Y", "1"), f"/sys/module/kvm/parameters/enable_virt_at_load = {value}")


def _hibernation(host: Host) -> Finding:
    state = host.files.text_or_none("/sys/power/disk")
    if host.command_line.has("nohibernate"):
        return passed("/proc/cmdline: nohibernate")
    if state in (None, "[disabled]"):
        return passed(f"/sys/power/disk: {state or 'absent'}: this kernel cannot hibernate")
    return failed(f"/proc/cmdline: no nohibernate; /sys/power/disk: {state}")


def _numa_balancing(host: Host) -> Finding:
    value = host.files.text_or_none("/proc/sys/kernel/numa_balancing")
    given = host.command_line.value("numa_balancing")
    if value == "0" or given == "disable":
        return passed(f"/proc/sys/kernel/numa_balancing = {value}, numa_balancing={given or '(not given)'}")
    if value is None:
        return passed("/proc/sys/kernel/numa_balancing is absent: this kernel does not balance")
    return failed(f"/proc/sys/kernel/numa_balancing = {value}")


def _mtrr(host: Host) -> Finding:
    line = host.command_line
    if line.has("enable_mtrr_cleanup") and not line.has("disable_mtrr_cleanup"):
        return failed("/proc/cmdline: enable_mtrr_cleanup")
    if line.has("disable_mtrr_cleanup"):
        return passed("/proc/cmdline: disable_mtrr_cleanup")
    if host.world is World.UNKNOWN:
        return warned("/proc/cmdline: no disable_mtrr_cleanup, and the kernel says nothing of TDX")
    return passed("/proc/cmdline: no mtrr_cleanup parameter; this kernel knows TDX")


def _known_bad(host: Host) -> Finding:
    release = host.kernel
    log = "\n".join(host.log.lines)
    for entry in table("known_bad")["kernel"]:
        if release.startswith(entry["match"]) and entry["when"] in log:
            return failed(f"kernel {release}, kernel log: {entry['when']}: {entry['why']}", entry["fix"])
    return passed(f"kernel {release} is on no list of known faults that show here")


def _nested(host: Host) -> Finding:
    value = host.files.text_or_none("/sys/module/kvm_intel/parameters/ept")
    if value is None:
        return warned("/sys/module/kvm_intel/parameters/ept is absent")
    return judged(value in ("Y", "1"), f"/sys/module/kvm_intel/parameters/ept = {value}")


KVM = Check(
    "kernel.kvm_tdx",
    "KVM with TDX is on",
    _kvm,
    "/sys/module/kvm_intel/parameters/tdx = Y",
    "KVM starts TDs only if it was loaded with TDX",
    f"kernel parameter kvm_intel.tdx=1: {APPEND}",
    children=(
        Check(
            "kernel.virt_at_load",
            "KVM enables virtualisation at load",
            _virt_at_load,
            "kvm.enable_virt_at_load = Y",
            "TDX needs VMX on on every CPU before the module starts",
            "remove kvm.enable_virt_at_load=0 from the kernel parameters",
        ),
        Check(
            "kernel.ept",
            "EPT",
            _nested,
            "kvm_intel.ept = Y",
            "the private memory of a TD is mapped by secure EPT",
            "remove kvm_intel.ept=0 from the kernel parameters",
        ),
    ),
)

PARAMETERS = (
    Check(
        "kernel.hibernation",
        "Hibernation is off",
        _hibernation,
        "kernel parameter nohibernate",
        "private memory cannot be saved: the kernel refuses TDX ('Hibernation support is enabled')",
        f"kernel parameter nohibernate: {APPEND}",
    ),
    Check(
        "kernel.numa_balancing",
        "NUMA balancing is off",
        _numa_balancing,
        "numa_balancing=disable",
        "balancing unmaps pages that KVM cannot move for a TD: it costs speed and, on the 1.5 stack, stability",
        f"kernel parameter numa_balancing=disable: {APPEND}",
        required=False,
    ),
    Check(
        "kernel.mtrr_cleanup",
        "The kernel leaves MTRRs alone",
        _mtrr,
        "no MTRR clean-up by a kernel that does not know TDX",
        "a non-TDX kernel with CONFIG_MTRR_SANITIZER cleans entries with KeyID bits: machine check ...00061136",
        "boot distribution kernels with disable_mtrr_cleanup while TDX is on in the BIOS",
        required=False,
    ),
)

KERNEL = Check(
    "kernel.version",
    "Host kernel knows TDX",
    _version,
    "Linux 6.16 or later, or a kernel of the 1.5 stack",
    "TDX host support came upstream with 6.16",
    "install such a kernel and make it the default: tdxctl host install",
    children=(
        *PARAMETERS,
        Check(
            "kernel.known_bad",
            "Kernel without known faults",
            _known_bad,
            "no known fault of this kernel shows in its log",
            "some kernels give up on firmware that others run with",
            "update the kernel",
        ),
        KVM,
    ),
)

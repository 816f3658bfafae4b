"""QEMU and libvirt: of one stack, and with TDX."""

from __future__ import annotations

import re
from enum import StrEnum

from tdxstack.platform.linux_host_source import Answer
from tdxstack.preflight import facts
from tdxstack.preflight.checks.domains import DOMAINS
from tdxstack.preflight.host import FIRST_LIBVIRT, FIRST_QEMU_RESET, Host, World
from tdxstack.preflight.model import Check, Finding, failed, judged, passed, skipped, warned

#: A captured tree without its answer.
UNTOLD = "the tree does not tell"
PIN = "install the stack's own packages and pin them: tdxctl host install --only packages"


class Dialect(StrEnum):
    """Which tdx-guest object a QEMU has."""

    STACK_1_5 = "1.5"
    UPSTREAM = "upstream"


def dialect(properties: tuple[str, ...]) -> Dialect:
    """The dialect by the object's properties: the 1.5 stack's own are unknown upstream."""
    old = {"quote-generation-service", "migtd-pid", "migtd-hash", "vsockport", "debug"}
    return Dialect.STACK_1_5 if old & set(properties) else Dialect.UPSTREAM


def _qemu(host: Host) -> Finding:
    qemu = host.qemu
    if qemu is None and not host.packages and not host.source.tells(Answer.QEMU):
        return warned(UNTOLD)
    if qemu is None:
        return failed("no qemu-system-x86_64 or qemu-kvm in /usr/bin, /usr/libexec, /usr/local/bin")
    return passed(f"{qemu.path}: version {qemu.version or 'unknown'}")


def _object(host: Host) -> Finding:
    qemu = host.qemu
    if qemu is None:
        return skipped("no QEMU")
    if qemu.tdx_guest is None:
        return failed(f"{qemu.path} {qemu.version}: -object help does not list tdx-guest")
    return passed(f"{qemu.path}: tdx-guest with {', '.join(qemu.tdx_guest) or 'no properties'}")


def _same_stack(host: Host) -> Finding:
    qemu = host.qemu
    if qemu is None or qemu.tdx_guest is None:
        return skipped("no tdx-guest object")
    speaks = dialect(qemu.tdx_guest)
    world = host.world
    evidence = f"QEMU {qemu.version} speaks the {speaks} dialect, the kernel is of the {world} stack"
    if world is World.UNKNOWN:
        return warned(evidence)
    return judged(speaks.value == world.value, evidence)


def _reboot(host: Host) -> Finding:
    qemu = host.qemu
    if qemu is None or not qemu.version:
        return skipped("QEMU's version is not known")
    number = facts.version(qemu.version)
    return judged(number >= FIRST_QEMU_RESET, f"QEMU {qemu.version}")


def _libvirt(host: Host) -> Finding:
    package = host.libvirt_package
    running = [
        unit
        for unit, state in host.services.items()
        if unit.startswith(("libvirtd", "virtqemud")) and state == "active"
    ]
    if package is None and not running and not host.packages and not host.source.tells(Answer.SERVICES):
        return warned(UNTOLD)
    if package is None and not running:
        return failed("neither a libvirt package nor an active libvirtd or virtqemud")
    return passed(f"{package or 'libvirt'}; active: {', '.join(running) or 'no unit'}")


def _libvirt_tdx(host: Host) -> Finding:
    text = host.domain_capabilities
    if text is None:
        return warned(
            "virsh domcapabilities does not answer" if host.source.tells(Answer.LIBVIRT) else UNTOLD,
            "systemctl start libvirtd (or virtqemud.socket), then run as root",
        )
    found = re.search(r"<tdx supported=['\"](yes|no)['\"]", text)
    if found:
        return judged(found[1] == "yes", f"domain capabilities: tdx supported='{found[1]}'")
    if re.search(r"<value>\s*tdx\s*</value>", text):
        return passed("domain capabilities: launch security has tdx")
    return failed("domain capabilities do not name tdx")


def _libvirt_matches(host: Host) -> Finding:
    qemu = host.qemu
    if qemu is None or qemu.tdx_guest is None:
        return skipped("no tdx-guest object in QEMU")
    name = host.libvirt_package
    if name is None:
        return skipped("libvirt's version is not known")
    number = facts.version(re.sub(r"^\d+:", "", name.split(" ", 1)[1]))
    speaks = dialect(qemu.tdx_guest)
    evidence = f"{name}; QEMU {qemu.version} speaks the {speaks} dialect"
    if speaks is Dialect.UPSTREAM:
        return judged(number >= FIRST_LIBVIRT or "tdx" in name or "kobuk" in name, evidence)
    return judged(number < FIRST_LIBVIRT, evidence)


def _passt(host: Host) -> Finding:
    tools = host.package("libguestfs-tools", "guestfs-tools")
    if tools is None:
        return passed("libguestfs is not installed; tdxctl builds images without it")
    profiles = host.files.text_or_none("/sys/kernel/security/apparmor/profiles") or ""
    if host.package("passt") and "passt (enforce)" in profiles:
        return failed(f"{tools}, and AppArmor enforces a profile of passt")
    return passed(f"{tools}; no enforced profile of passt")


QEMU = Check(
    "qemu.present",
    "QEMU",
    _qemu,
    "a QEMU for x86-64",
    "it runs the TDs",
    "install the distribution's QEMU with TDX (10.1 or later): tdxctl host install --only packages",
    children=(
        Check(
            "qemu.tdx_guest",
            "QEMU has the tdx-guest object",
            _object,
            "-object help lists tdx-guest",
            "an upgrade may have put a QEMU without TDX in its place: 'qom-type does not accept tdx-guest'",
            PIN,
            children=(
                Check(
                    "qemu.same_stack",
                    "QEMU and kernel are of one stack",
                    _same_stack,
                    "both of the 1.5 stack, or both upstream",
                    "their KVM interfaces differ: 'KVM_TDX_CAPABILITIES failed: Inappropriate ioctl for device'",
                    PIN,
                ),
            ),
        ),
        Check(
            "qemu.reboot",
            "QEMU resets a TD itself",
            _reboot,
            "QEMU 11.0 or later",
            "earlier ones end when the guest reboots, and the domain vanishes",
            "let tdxctl or libvirt (on_reboot=restart) start the TD again, or use QEMU 11",
            required=False,
        ),
    ),
)

LIBVIRT = Check(
    "libvirt.present",
    "libvirt",
    _libvirt,
    "libvirt with its QEMU driver",
    "needed for TDs as libvirt domains; tdxctl runs TDs without it too",
    "tdxctl host install --only packages",
    required=False,
    children=(
        Check(
            "libvirt.tdx",
            "libvirt offers TDX",
            _libvirt_tdx,
            "domain capabilities: tdx supported='yes'",
            "libvirt asks QEMU and KVM; it says no where one of them lacks TDX",
            "fix QEMU and kernel; then rm /var/cache/libvirt/qemu/capabilities/*.xml; systemctl restart libvirtd",
        ),
        Check(
            "libvirt.matches_qemu",
            "libvirt and QEMU are of one stack",
            _libvirt_matches,
            "libvirt 11.6 or later with upstream QEMU, the 1.5 stack's with its QEMU",
            "names drifted: quote-generation-service and -socket, memory-backend-memfd-private, XML elements",
            PIN,
        ),
        *DOMAINS,
    ),
)

IMAGES = Check(
    "images.passt",
    "Image tools' network",
    _passt,
    "no libguestfs that depends on a confined passt",
    "virt-customize then ends with 'passt exited with status 1' and the image is half made",
    "build images with tdxctl image build, or run virt-customize with --no-network",
)

CHECKS = (QEMU, LIBVIRT, IMAGES)

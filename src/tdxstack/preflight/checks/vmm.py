"""QEMU, libvirt and the virtual firmware: of one stack, and with TDX."""

from __future__ import annotations

import re
from enum import StrEnum

from tdxstack.platform.linux_host_source import Answer
from tdxstack.preflight import facts
from tdxstack.preflight.checks.attestation import QGS_SOCKET
from tdxstack.preflight.domain_files import DIRECTORY as DOMAINS
from tdxstack.preflight.domain_files import OF_1_5, OF_CANONICAL, OF_UPSTREAM, td_domains
from tdxstack.preflight.firmware_files import PLACES, FirmwareFile, firmware_files
from tdxstack.preflight.host import Host, World
from tdxstack.preflight.model import Check, Finding, failed, judged, passed, skipped, warned

#: A captured tree without its answer.
UNTOLD = "the tree does not tell"
#: QEMU resets a TD in place from here on.
RESETS = (11,)
#: libvirt knows TDX from here on.
FIRST_LIBVIRT = (11, 6)
LIBVIRT_PACKAGES = (
    "libvirt-daemon-system",
    "libvirt-daemon",
    "libvirt-daemon-driver-qemu",
    "intel-mvp-tdx-libvirt",
)
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
    return judged(number >= RESETS, f"QEMU {qemu.version}")


def _libvirt(host: Host) -> Finding:
    package = host.package(*LIBVIRT_PACKAGES)
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
    name = host.package(*LIBVIRT_PACKAGES)
    if name is None:
        return skipped("libvirt's version is not known")
    number = facts.version(re.sub(r"^\d+:", "", name.split(" ", 1)[1]))
    speaks = dialect(qemu.tdx_guest)
    evidence = f"{name}; QEMU {qemu.version} speaks the {speaks} dialect"
    if speaks is Dialect.UPSTREAM:
        return judged(number >= FIRST_LIBVIRT or "tdx" in name or "kobuk" in name, evidence)
    return judged(number < FIRST_LIBVIRT, evidence)


def _domains(host: Host) -> Finding:
    found = list(td_domains(host.files))
    lost = [one.name for one in found if one.on_reboot not in ("restart", "rename-restart")]
    evidence = f"{DOMAINS}: {len(found)} TDs"
    if not lost or _resets(host):
        return passed(f"{evidence}; on_reboot = restart, or QEMU resets them itself" if found else evidence)
    return failed(f"{evidence}; on_reboot is not restart for: {', '.join(lost[:8])}")


def _domain_dialect(host: Host) -> Finding:
    named = host.package(*LIBVIRT_PACKAGES)
    if named is None:
        return skipped("libvirt's version is not known")
    if facts.version(re.sub(r"^\d+:", "", named.split(" ", 1)[1])) >= FIRST_LIBVIRT:
        foreign: tuple[str, ...] = (*OF_1_5, *OF_CANONICAL)
    elif "mvp" in named:
        foreign = (*OF_UPSTREAM, *OF_CANONICAL)
    else:
        return skipped(f"{named}: which elements this libvirt knows is not known")
    found = [f"{one.name}: {name}" for one in td_domains(host.files) for name in one.elements if name in foreign]
    if found:
        return failed(f"{named}; {DOMAINS}: elements of another stack: {', '.join(found[:8])}")
    return passed(f"{named}; {DOMAINS}: no element of another stack")


def _domain_qgs(host: Host) -> Finding:
    paths = {one.name: one.quote_path for one in td_domains(host.files) if one.quote_path}
    other = [f"{name}: {path}" for name, path in paths.items() if path.removeprefix("/var") != QGS_SOCKET[4:]]
    lost = [text for text in other if not host.files.exists(text.split(": ", 1)[1])]
    if lost:
        return failed(f"{DOMAINS}: sockets at which no QGS listens: {', '.join(lost[:8])}")
    return passed(f"{DOMAINS}: {len(paths)} TDs name a socket")


def _resets(host: Host) -> bool:
    qemu = host.qemu
    return qemu is not None and bool(qemu.version) and facts.version(qemu.version) >= RESETS


def _tdvf(host: Host) -> FirmwareFile | None:
    return next((one for one in firmware_files(host.files) if one.tdvf), None)


def _firmware(host: Host) -> Finding:
    present = firmware_files(host.files)
    if not present and not host.source.tells(Answer.PROGRAMS):
        return warned(UNTOLD)
    if not present:
        return failed(f"none of {', '.join(PLACES)}")
    chosen = _tdvf(host)
    if chosen is None:
        return failed(f"{', '.join(one.path for one in present)}: without TDX metadata: no TDVF")
    return passed(f"{chosen.path}: carries TDX metadata")


def _firmware_unmodified(host: Host) -> Finding:
    chosen = _tdvf(host)
    if chosen is None:
        return skipped("no TDVF")
    for name in host.files.names("/var/lib/dpkg/info"):
        if not name.endswith(".md5sums") or "ovmf" not in name.lower():
            continue
        for line in host.files.text(f"/var/lib/dpkg/info/{name}").splitlines():
            listed, _, where = line.partition("  ")
            if f"/{where.strip()}" == chosen.path:
                owner = name.removesuffix(".md5sums")
                evidence = f"{chosen.path}: MD5 {chosen.md5}, package {owner} lists {listed}"
                return judged(listed == chosen.md5, evidence)
    return skipped(f"no package lists {chosen.path}")


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
        Check(
            "libvirt.on_reboot",
            "TDs come back from a reboot",
            _domains,
            "<on_reboot>restart</on_reboot> in each TD's domain, or QEMU 11 or later",
            "a QEMU that cannot reset a TD ends on its reboot; with on_reboot=destroy the domain is gone",
            "virsh edit DOMAIN: <on_reboot>restart</on_reboot>",
        ),
        Check(
            "libvirt.dialect",
            "TDs are written for this libvirt",
            _domain_dialect,
            "quoteGenerationService with a path for libvirt 11.6 and later; the 1.5 stack's names with its libvirt",
            "an element of another stack is refused, or its TD gets no quote: names drifted",
            "virsh edit DOMAIN; or let tdxctl write it: tdxctl td create --via libvirt",
        ),
        Check(
            "libvirt.qgs_path",
            "TDs ask for quotes where QGS listens",
            _domain_qgs,
            f"{QGS_SOCKET}, or a socket that is there",
            "QEMU passes the TD's request to that socket only: 'Failed to get the quote'",
            f"virsh edit DOMAIN: <quoteGenerationService path='{QGS_SOCKET}'/>",
        ),
    ),
)

OVMF = Check(
    "ovmf.present",
    "Virtual firmware with TDX (TDVF)",
    _firmware,
    "a firmware file with TDX metadata",
    "the TDX module starts a TD only in a firmware that describes its sections",
    "install the package ovmf-inteltdx or ovmf (edk2-ovmf on RHEL)",
    children=(
        Check(
            "ovmf.unmodified",
            "Virtual firmware is the package's",
            _firmware_unmodified,
            "the digest that its package lists",
            "another file under the same name gives another MRTD and RTMR0: 'RTMR mismatch'",
            "reinstall the package, or predict measurements from the file in use: tdxctl measure predict",
        ),
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

CHECKS = (QEMU, LIBVIRT, OVMF, IMAGES)

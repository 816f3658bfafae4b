"""TDs that libvirt has defined: their firmware, what a reboot does to them, whose words they are written in."""

from __future__ import annotations

import re

from tdxstack.platform.linux_host_source import Answer
from tdxstack.preflight import facts
from tdxstack.preflight.checks.attestation import QGS_SOCKET
from tdxstack.preflight.domain_files import DIRECTORY, OF_1_5, OF_CANONICAL, OF_UPSTREAM, TdDomain
from tdxstack.preflight.host import FIRST_LIBVIRT, FIRST_QEMU_RESET, Host
from tdxstack.preflight.model import Check, Finding, failed, passed, skipped


def _domains(host: Host) -> Finding:
    found = host.td_domains
    lost = [one.name for one in found if one.on_reboot not in ("restart", "rename-restart")]
    evidence = f"{DIRECTORY}: {len(found)} TDs"
    if not lost or _resets(host):
        return passed(f"{evidence}; on_reboot = restart, or QEMU resets them itself" if found else evidence)
    return failed(f"{evidence}; on_reboot is not restart for: {', '.join(lost[:8])}")


def _domain_dialect(host: Host) -> Finding:
    named = host.libvirt_package
    if named is None:
        return skipped("libvirt's version is not known")
    if facts.version(re.sub(r"^\d+:", "", named.split(" ", 1)[1])) >= FIRST_LIBVIRT:
        foreign: tuple[str, ...] = (*OF_1_5, *OF_CANONICAL)
    elif "mvp" in named:
        foreign = (*OF_UPSTREAM, *OF_CANONICAL)
    else:
        return skipped(f"{named}: which elements this libvirt knows is not known")
    found = [f"{one.name}: {name}" for one in host.td_domains for name in one.elements if name in foreign]
    if found:
        return failed(f"{named}; {DIRECTORY}: elements of another stack: {', '.join(found[:8])}")
    return passed(f"{named}; {DIRECTORY}: no element of another stack")


def _domain_qgs(host: Host) -> Finding:
    paths = {one.name: one.quote_path for one in host.td_domains if one.quote_path}
    other = [f"{name}: {path}" for name, path in paths.items() if path.removeprefix("/var") != QGS_SOCKET[4:]]
    lost = [text for text in other if not host.files.exists(text.split(": ", 1)[1])]
    if lost:
        return failed(f"{DIRECTORY}: sockets at which no QGS listens: {', '.join(lost[:8])}")
    return passed(f"{DIRECTORY}: {len(paths)} TDs name a socket")


def _resets(host: Host) -> bool:
    qemu = host.qemu
    return qemu is not None and bool(qemu.version) and facts.version(qemu.version) >= FIRST_QEMU_RESET


def _loaders(host: Host) -> Finding:
    named = [one for one in host.td_domains if one.loader]
    if not named:
        return passed(f"{DIRECTORY}: no TD names its firmware")
    bad = [f"{one.name}: {one.loader} {fault}" for one in named if (fault := _loader_fault(host, one))]
    if bad:
        return failed(f"{DIRECTORY}: {'; '.join(bad[:8])}")
    releases = {file.release for file in host.firmware if file.release and file.path in {one.loader for one in named}}
    evidence = f"{DIRECTORY}: {len(named)} TDs name their firmware"
    return passed(f"{evidence}, which acts like edk2 {', '.join(sorted(releases))}" if releases else evidence)


def _loader_fault(host: Host, domain: TdDomain) -> str | None:
    """What is wrong with the firmware of a TD, or None."""
    if domain.loader_type == "pflash":
        return "is mapped as flash, which a TD does not have"
    file = next((one for one in host.firmware if one.path == domain.loader), None)
    if file is None:
        return "is absent" if host.source.tells(Answer.PROGRAMS) else None
    if not file.tdvf:
        return "has no TDX metadata: no TDVF"
    return "measures nothing: it lacks TdTcg2Dxe" if file.measures is False else None


DOMAINS = (
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
    Check(
        "libvirt.loader",
        "TDs start in firmware that measures",
        _loaders,
        "<loader type='rom'> with a TDVF that measures, in each TD's domain that names one",
        "MRTD and RTMRs follow from that file, whatever firmware is installed beside it: 'RTMR mismatch'",
        "virsh edit DOMAIN: <loader type='rom' readonly='yes'>FILE</loader>; then tdxctl measure mrtd FILE",
    ),
)

"""Copy what checks read into a tree, so that a host can be looked at elsewhere. Secrets are left out."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from tdxstack.errors import StateError, WireError
from tdxstack.platform.linux_host_files import HostReadError
from tdxstack.platform.linux_host_source import DIRECTORY, HostSource
from tdxstack.preflight import redaction
from tdxstack.preflight.checks.attestation import (
    PCCS_CONFIGS,
    QCNL,
    QGS_CONFIG,
    QGS_SOCKET,
    REGISTRATION_LOG,
    REGISTRATION_STATUS,
    TRUST_STORE,
    trusted_certificate,
)
from tdxstack.preflight.checks.capacity import CAPACITY, CURRENT
from tdxstack.preflight.checks.confinement import ABSTRACTIONS, QEMU_CONF
from tdxstack.preflight.domain_files import DIRECTORY as DOMAINS
from tdxstack.preflight.domain_files import td_domains
from tdxstack.preflight.firmware_files import FACTS, firmware_files
from tdxstack.preflight.host import DMI_TABLE
from tdxstack.preflight.msr import CAPTURED
from tdxstack.system.files import write_atomic
from tdxstack.wire.smbios import redact

#: Text files that are copied as they are.
PLAIN = (
    "/proc/sys/kernel/osrelease",
    "/proc/sys/kernel/numa_balancing",
    "/proc/meminfo",
    "/etc/os-release",
    "/sys/power/disk",
    "/sys/module/kvm_intel/parameters/tdx",
    "/sys/module/kvm_intel/parameters/ept",
    "/sys/module/kvm/parameters/enable_virt_at_load",
    "/sys/module/apparmor/parameters/enabled",
    "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit",
    "/sys/kernel/security/apparmor/profiles",
    "/sys/fs/selinux/enforce",
    *(
        f"/sys/firmware/tdx/tdx_module/{name}"
        for name in ("status", "attributes", "vendor_id", "build_date", "build_num", "major_version", "minor_version")
    ),
    "/sys/firmware/tdx/keyid_num",
    *(
        f"/sys/devices/faux/tdx_host/{name}"
        for name in ("version", "seamldr_version", "seamldr/version", "num_remaining_updates")
    ),
    CAPACITY,
    CURRENT,
    QGS_CONFIG,
    *ABSTRACTIONS,
)
#: What a check asks only whether it is there.
MARKERS = ("/dev/sgx_enclave", "/dev/sgx_provision", "/dev/vhost-vsock", QGS_SOCKET)
#: Text files that are copied without what is nobody's business.
CLEANED = {
    "/proc/cpuinfo": lambda text: f"{text}\n",
    "/proc/cmdline": redaction.line,
    "/etc/group": redaction.groups,
    QCNL: redaction.qcnl,
    QEMU_CONF: redaction.qemu_conf,
    REGISTRATION_LOG: redaction.line,
    "/var/lib/dpkg/status": redaction.packages,
    **dict.fromkeys(PCCS_CONFIGS, redaction.pccs),
}


def collect(source: HostSource) -> dict[str, bytes]:
    """Path in the tree -> content. What is not there is not in it."""
    plan: dict[str, bytes] = {}
    for path in PLAIN:
        _add(plan, path, source)
    for path in MARKERS:
        if source.files.exists(path):
            plan[path] = b""
    _add_cleaned(plan, source)
    plan.update(_answers(source))
    plan.update(_firmware(source))
    plan.update({f"{DOMAINS}/{one.name}.xml": one.xml().encode() for one in td_domains(source.files)})
    return plan


def _firmware(source: HostSource) -> dict[str, bytes]:
    """Facts of firmware files, which are too large to send, and what their packages list."""
    info = "/var/lib/dpkg/info"
    found: dict[str, bytes] = {}
    for name in source.files.names(info):
        if name.endswith(".md5sums") and "ovmf" in name.lower():
            _add(found, f"{info}/{name}", source)
    with suppress(HostReadError):
        loaders = [one.loader for one in td_domains(source.files) if one.loader]
        facts = [asdict(one) for one in firmware_files(source.files, loaders)]
        found[FACTS] = (json.dumps(facts, indent=1) + "\n").encode()
    return found


def _add(plan: dict[str, bytes], path: str, source: HostSource) -> None:
    try:
        plan[path] = source.files.read(path)
    except HostReadError:
        return


def _add_cleaned(plan: dict[str, bytes], source: HostSource) -> None:
    for path, cleaned in CLEANED.items():
        if (text := source.files.text_or_none(path)) is not None:
            plan[path] = cleaned(text).encode()
    try:
        plan[DMI_TABLE] = redact(source.files.read(DMI_TABLE))
    except (HostReadError, WireError):
        plan.pop(DMI_TABLE, None)
    _add(plan, REGISTRATION_STATUS, source)
    if (trusted := trusted_certificate(source.files)) is not None:
        plan |= {trusted.path: trusted.text.encode(), TRUST_STORE: trusted.text.encode()}


def _answers(source: HostSource) -> dict[str, bytes]:
    cpus = list(source.cpus())
    registers: dict[str, dict[str, str]] = {}
    for register in CAPTURED:
        for cpu in cpus:
            try:
                registers.setdefault(hex(register), {})[str(cpu)] = hex(source.msr(cpu, register))
            except HostReadError:
                continue
    about = {
        "schema": "tdxstack/host-capture/v1",
        "cpus": (cpus[-1] + 1 if cpus else 1),
        "privileged": bool(registers),
    }
    found: dict[str, object] = {"capture.json": about, "msr.json": registers}
    with suppress(HostReadError):
        found["services.json"] = dict(source.services())
    with suppress(HostReadError):
        qemu = source.qemu()
        if qemu is not None:
            found["qemu.json"] = asdict(qemu)
    plan = {f"{DIRECTORY}/{name}": (json.dumps(value, indent=1) + "\n").encode() for name, value in found.items()}
    for name, text in (
        ("domcapabilities.xml", source.domain_capabilities()),
        ("rpm-packages", source.rpm_packages()),
    ):
        if text is not None:
            plan[f"{DIRECTORY}/{name}"] = text.encode()
    with suppress(HostReadError):
        plan[f"{DIRECTORY}/dmesg"] = redaction.log(source.dmesg()).encode()
    return plan


def write(plan: dict[str, bytes], directory: Path) -> None:
    """Write the tree; readable by its owner only.

    Raises:
        StateError: the directory exists.
        SystemFault: it cannot be written.
    """
    if directory.exists():
        raise StateError(str(directory), "capture", "it exists", "a new directory", hint="name another directory")
    directory.mkdir(mode=0o700, parents=True)
    for path, content in plan.items():
        target = directory / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, content)

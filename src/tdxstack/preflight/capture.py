"""Copy what checks read into a tree, with secrets left out, so that a host can be looked at elsewhere.

Left out or blanked: serial numbers, asset tags and UUID (SMBIOS), addresses of network cards and disks (the log keeps
only lines that concern TDX, SGX, KVM and machine checks), keys, tokens and passwords (PCCS, kernel command line).
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from tdxstack.errors import StateError, WireError
from tdxstack.platform.linux_host_files import HostReadError
from tdxstack.platform.linux_host_source import DIRECTORY, HostSource
from tdxstack.preflight.checks.attestation import (
    PCCS_CONFIGS,
    QCNL,
    QGS_CONFIG,
    QGS_SOCKET,
    REGISTRATION_LOG,
    REGISTRATION_STATUS,
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
    "/etc/group",
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
    QCNL,
    QGS_CONFIG,
    REGISTRATION_LOG,
    QEMU_CONF,
    *ABSTRACTIONS,
)
#: What a check asks only whether it is there.
MARKERS = ("/dev/sgx_enclave", "/dev/sgx_provision", "/dev/vhost-vsock", QGS_SOCKET)
LOG_WORDS = re.compile(r"tdx|seam|sgx|kvm|mktme|tme|mce|machine check|microcode|x86/cpu|hibernat|TSX", re.IGNORECASE)
PARAMETER = re.compile(r"(?<!\S)([^\s=]{1,120})=(\"[^\"]*\"|\S+)")
SECRET_NAME = re.compile(r"pass|key|token|secret|auth", re.IGNORECASE)
MAC_ADDRESS = re.compile(r"\b[0-9a-f]{2}(?::[0-9a-f]{2}){5}\b", re.IGNORECASE)
KEPT_PCCS_KEYS = ("uri", "HTTPS_PORT", "hosts", "CachingFillMode", "RefreshSchedule", "LogLevel", "OPENSSL_FIPS_MODE")


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
        facts = [asdict(one) for one in firmware_files(source.files)]
        found[FACTS] = (json.dumps(facts, indent=1) + "\n").encode()
    return found


def _add(plan: dict[str, bytes], path: str, source: HostSource) -> None:
    try:
        plan[path] = source.files.read(path)
    except HostReadError:
        return


def _add_cleaned(plan: dict[str, bytes], source: HostSource) -> None:
    if (cpuinfo := source.files.text_or_none("/proc/cpuinfo")) is not None:
        plan["/proc/cpuinfo"] = cpuinfo.encode() + b"\n"
    if (line := source.files.text_or_none("/proc/cmdline")) is not None:
        plan["/proc/cmdline"] = without_secrets(line).encode() + b"\n"
    try:
        plan[DMI_TABLE] = redact(source.files.read(DMI_TABLE))
    except (HostReadError, WireError):
        plan.pop(DMI_TABLE, None)
    _add(plan, REGISTRATION_STATUS, source)
    for path in PCCS_CONFIGS:
        if (text := source.files.text_or_none(path)) is not None:
            plan[path] = _pccs(text)
    if (status := source.files.text_or_none("/var/lib/dpkg/status")) is not None:
        plan["/var/lib/dpkg/status"] = _packages(status)


def without_secrets(text: str) -> str:
    """The text with the values of parameters left out whose names speak of secrets."""

    def clean(found: re.Match[str]) -> str:
        return f"{found[1]}=[left-out]" if SECRET_NAME.search(found[1]) else found[0]

    return PARAMETER.sub(clean, text)


def _pccs(text: str) -> bytes:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return b"{}\n"
    kept = {key: value[key] for key in KEPT_PCCS_KEYS if key in value} if isinstance(value, dict) else {}
    return (json.dumps(kept, indent=2) + "\n").encode()


def _packages(status: str) -> bytes:
    fields = ("Package: ", "Status: ", "Version: ")
    blocks = (
        "\n".join(line for line in block.splitlines() if line.startswith(fields)) for block in status.split("\n\n")
    )
    return ("\n\n".join(block for block in blocks if block) + "\n").encode()


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
        plan[f"{DIRECTORY}/dmesg"] = _log(source.dmesg())
    return plan


def _log(text: str) -> bytes:
    kept = (MAC_ADDRESS.sub("xx:xx:xx:xx:xx:xx", line) for line in text.splitlines() if LOG_WORDS.search(line))
    return without_secrets("\n".join(kept) + "\n").encode()


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

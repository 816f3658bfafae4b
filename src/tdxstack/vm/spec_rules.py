"""What the settings of a ``TdSpec`` must satisfy together, one small rule after the other."""

from __future__ import annotations

import re
from pathlib import Path

from tdxstack.errors import UsageError
from tdxstack.vm.network import is_user
from tdxstack.vm.spec import MIB, SYSTEM_URI, Boot, Ima, TdSpec, Via, VmType

MIN_MEMORY = 64 * MIB
MAX_VCPUS = 4096
HUGEPAGE_SIZES = (0, 2 * MIB, 1024 * MIB)
FIRST_CID = 3


def checked(spec: TdSpec) -> TdSpec:
    """``spec``, if its settings agree with each other.

    Raises:
        UsageError: names the setting at fault and what to write instead.
    """
    for rule in (check_size, _boot, _type, _network, _driver):
        rule(spec)
    return spec


def _refuse(spec: TdSpec, setting: str, what: str, hint: str) -> None:
    raise UsageError(f"TD {spec.name}: {setting}: {what}", hint=hint)


def check_size(spec: TdSpec) -> None:
    """Memory and processors are such as a machine can have. Raises UsageError."""
    if spec.memory < MIN_MEMORY or spec.memory % MIB:
        _refuse(spec, "memory", f"{spec.memory} bytes is not a whole number of MiB from 64M", "write memory = 2G")
    if not 1 <= spec.vcpus <= MAX_VCPUS:
        _refuse(spec, "vcpus", f"{spec.vcpus} is out of range", f"take 1 to {MAX_VCPUS}")
    if spec.sockets < 1 or spec.vcpus % spec.sockets:
        _refuse(spec, "sockets", f"{spec.vcpus} vCPUs do not divide by {spec.sockets} sockets", "change one of them")
    if spec.threads < 1 or spec.vcpus % (spec.sockets * spec.threads):
        what = f"{spec.vcpus} vCPUs do not divide by {spec.sockets} sockets times {spec.threads} threads"
        _refuse(spec, "threads", what, "change one of them")
    if spec.hugepages not in HUGEPAGE_SIZES:
        _refuse(spec, "hugepages", "is not a huge page size", "take 2M, 1G or 0")
    if spec.hugepages and spec.memory % spec.hugepages:
        _refuse(spec, "hugepages", "the memory is not a multiple of it", "round memory up")


def _boot(spec: TdSpec) -> None:
    if spec.boot is Boot.DIRECT and spec.kernel is None:
        _refuse(spec, "kernel", "a direct boot needs one", "give --kernel FILE, or --boot grub with a bootable image")
    if spec.boot is Boot.GRUB:
        for name in ("kernel", "initrd", "cmdline"):
            if getattr(spec, name) is not None:
                _refuse(spec, name, "boot=grub takes it from the disk", f"leave {name} out, or use boot=direct")
        if spec.image is None:
            _refuse(spec, "image", "boot=grub needs a disk", "give --image FILE")
    if spec.boot is Boot.UKI:
        if spec.kernel is None and spec.image is None:
            _refuse(spec, "image", "boot=uki needs a disk with a UKI, or a UKI file", "give --image or --kernel")
        if spec.initrd is not None:
            _refuse(spec, "initrd", "a UKI carries its own", "leave initrd out, or use boot=direct")
    if spec.boot is not Boot.DIRECT and spec.ima not in (Ima.OFF, Ima.ON):
        what = f"boot={spec.boot.value} takes the kernel's options from the image"
        _refuse(spec, "ima", what, f"tdxctl image build --ima {spec.ima.value}, and ima=on")


def _type(spec: TdSpec) -> None:
    if spec.attributes >> 64:
        _refuse(spec, "attributes", f"{spec.attributes:#x} has more than 64 bits", "e.g. attributes = 0x10000000")
    if spec.type is VmType.TD:
        if spec.tpm:
            _refuse(
                spec, "tpm", "a TD has no TPM of its own besides its platform's", "leave tpm out, or use type=efi"
            )
        return
    for name in ("mrconfigid", "mrowner", "mrownerconfig"):
        if any(getattr(spec, name)):
            _refuse(spec, name, f"has no meaning for type={spec.type.value}", f"leave {name} out, or use type=td")
    if spec.quote not in ("auto", "none"):
        _refuse(spec, "quote", f"type={spec.type.value} has no quotes", "leave quote out, or use type=td")
    if spec.type is VmType.LEGACY and spec.tpm:
        _refuse(spec, "tpm", "needs UEFI", "use type=efi")
    if spec.type is VmType.LEGACY and spec.boot is Boot.UKI:
        _refuse(spec, "boot", "a UKI needs UEFI", "use type=efi or type=td")


def _network(spec: TdSpec) -> None:
    if not 0 <= spec.ssh_port <= 65535:
        _refuse(spec, "ssh_port", f"{spec.ssh_port} is no port", "take 0 (chosen at start) to 65535")
    if not is_user(spec.network) and (spec.ports or spec.ssh_port):
        _refuse(spec, "ports", f"network={spec.network} forwards no ports", "use network=user, or leave ports out")
    wanted = [("tcp", spec.ssh_port), *((port.protocol, port.host) for port in spec.ports)]
    taken = [one for one in wanted if one[1]]
    if len(taken) != len(set(taken)):
        _refuse(spec, "ports", "the same host port twice", "give each forward its own host port, or 0")
    if spec.vsock_cid and not (FIRST_CID <= spec.vsock_cid < 0xFFFFFFFF):
        _refuse(spec, "vsock_cid", f"{spec.vsock_cid} is reserved", f"take {FIRST_CID} or more, or 0")
    if spec.vsock_cid and not spec.vsock:
        _refuse(spec, "vsock_cid", "without a vsock device", "add vsock = true")


def _driver(spec: TdSpec) -> None:
    if spec.dialect != "auto":
        # Imported here: the table of dialects is built of specifications.
        from tdxstack.vm.dialects import by_name

        by_name(spec.dialect)
    if spec.via is Via.QEMU:
        if spec.connect != SYSTEM_URI:
            _refuse(spec, "connect", "is for libvirt", "add via = libvirt, or leave connect out")
        return
    if not re.match(r"qemu(\+[a-z0-9]+)?:///?", spec.connect):
        _refuse(spec, "connect", f"{spec.connect!r} is no URI of libvirt's QEMU driver", f"write {SYSTEM_URI}")


def check_files(spec: TdSpec) -> None:
    """Every file that the spec names exists and can be read.

    Raises:
        UsageError: names the setting and the file.
    """
    for name in ("firmware", "image", "kernel", "initrd"):
        path: Path | None = getattr(spec, name)
        if path is None:
            continue
        try:
            with path.open("rb"):
                pass
        except OSError as error:
            hint = f"give --{name} an existing file" if name != "image" else "tdxctl image list"
            raise UsageError(f"TD {spec.name}: {name} {path}: {error.strerror}", hint=hint) from None

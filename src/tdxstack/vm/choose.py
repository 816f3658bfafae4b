"""What the start chooses where the specification leaves it open: dialect, accelerator, firmware."""

from __future__ import annotations

from pathlib import Path

from tdxstack.errors import PlatformMissing, SystemFault
from tdxstack.system import paths
from tdxstack.vm import dialects
from tdxstack.vm.dialects import Dialect
from tdxstack.vm.spec import Accelerator, TdSpec, VmType

HARDWARE = "tdx"
#: Where firmware is looked for after the cache, where the image builder keeps the one it downloaded.
FIRMWARE_PLACES = (
    "/usr/share/ovmf/OVMF.fd",
    "/usr/share/edk2/ovmf/OVMF.inteltdx.fd",
    "/usr/share/qemu/OVMF.fd",
)


def dialect(spec: TdSpec) -> Dialect:
    """The dialect that the spec names; for a TD on hardware the one its QEMU says it speaks; else ``software``."""
    if spec.dialect != "auto":
        return _as_spoken(dialects.by_name(spec.dialect), spec.qemu)
    if spec.type is VmType.TD and spec.platform == HARDWARE:
        from tdxstack.vm.qemu.probe import dialect_of, probe

        return dialect_of(probe(spec.qemu), spec.qemu)
    return dialects.SOFTWARE


def _as_spoken(dialect: Dialect, qemu: str) -> Dialect:
    """A named dialect as this QEMU's version speaks it; a QEMU that cannot be asked is told of at the start."""
    from tdxstack.vm.qemu.probe import probe

    if not dialect.hardware:
        return dialect
    try:
        return dialects.of_version(dialect, probe(qemu).version)
    except SystemFault:
        return dialect


def accelerator(spec: TdSpec) -> str:
    """``kvm`` or ``tcg``; left open, KVM where a machine really runs under it."""
    if spec.accelerator is not Accelerator.AUTO:
        return str(spec.accelerator.value)
    if dialect(spec).hardware and spec.type is VmType.TD:
        return "kvm"
    from tdxstack.platform.accelerator import probe

    return str(probe(spec.qemu).accelerator)


def firmware(spec: TdSpec) -> Path | None:
    """The firmware file that boots; None for a legacy machine, which has QEMU's own.

    Raises:
        PlatformMissing: there is none on this machine.
    """
    if spec.type is VmType.LEGACY:
        return None
    if spec.firmware is not None:
        return spec.firmware
    own = sorted((paths.cache() / "firmware").glob("*/OVMF.fd"), reverse=True)
    for place in (*own, *map(Path, FIRMWARE_PLACES)):
        if place.exists():
            return place
    raise PlatformMissing(
        "no TDVF or OVMF file on this machine", hint="apt-get install ovmf, or give --firmware FILE"
    )

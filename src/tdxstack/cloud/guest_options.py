"""From what a program says of a guest to a ``TdSpec``; what cannot be done is refused, nothing is ignored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from tdxstack.cloud.vmparam import (
    BOOT_TYPE_DIRECT,
    DEFAULT_CMDLINE,
    DEFAULT_ROOT,
    HUGEPAGES_2M,
    KernelCmdline,
    VMSpec,
)
from tdxstack.errors import PlatformMissing, UsageError
from tdxstack.image.firmware import default_firmware
from tdxstack.image.store import MANIFEST, find_image, read_image
from tdxstack.platform.registry import open_platform
from tdxstack.vm import choose
from tdxstack.vm.spec import TdSpec, VmType
from tdxstack.vm.spec_rules import checked


class GuestOptions(TypedDict, total=False):
    """What ``VMGuestFactory.new_vm`` takes beside type and size.

    ``hugepage_size`` is ``2M`` or ``1G``; ``ports`` are forwards such as ``8080:80``; ``platform`` names one of
    ``tdxctl platform list``; ``settings`` are further settings of ``tdxctl td schema``.
    """

    name: str
    boot: str
    kernel: str | Path
    initrd: str | Path
    cmdline: KernelCmdline | str
    firmware: str | Path
    hugepages: bool
    hugepage_size: str
    vsock: bool
    vsock_cid: int
    mac_addr: str
    ports: tuple[str, ...]
    platform: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BootFiles:
    """What a factory's guests boot: the mother image, and kernel, initrd and command line of a direct boot."""

    image: Path
    kernel: Path | None
    initrd: Path | None
    cmdline: str
    boot: str


def boot_files(
    image: str | Path,
    kernel: str | Path | None,
    initrd: str | Path | None,
    cmdline: KernelCmdline | str | None,
    part: str | None,
) -> BootFiles:
    """What was given, and for the rest what a built image brings.

    Raises:
        UsageError: there is no such image.
    """
    path = Path(image)
    built = None
    if not path.exists() and "/" not in str(image):
        built = find_image(str(image), boot=BOOT_TYPE_DIRECT)
    elif (path.parent / MANIFEST).is_file():
        built = read_image(path.parent)
    default = f"root={part or DEFAULT_ROOT} {DEFAULT_CMDLINE}"
    if built is None:
        return BootFiles(path.absolute(), _path(kernel), _path(initrd), str(cmdline or default), BOOT_TYPE_DIRECT)
    own_kernel = kernel is None or Path(kernel).resolve() == built.kernel.resolve()
    own_cmdline = built.default_cmdline if part is None else str(_rooted(built.default_cmdline, part))
    return BootFiles(
        image=built.disk,
        kernel=_path(kernel) or built.kernel,
        initrd=_path(initrd) or (built.initrd if own_kernel else None),
        cmdline=str(cmdline) if cmdline is not None else own_cmdline if own_kernel else default,
        boot=built.boot,
    )


def guest_spec(name: str, vmtype: str, size: VMSpec, boot: BootFiles, options: GuestOptions) -> TdSpec:
    """The specification of a guest, checked.

    Raises:
        UsageError: an unknown type, an option that does not exist, or settings that contradict each other.
    """
    unknown = set(options) - set(GuestOptions.__annotations__)
    if unknown:
        raise UsageError(
            f"unknown option: {', '.join(sorted(unknown))}", hint="see GuestOptions; settings={...} for more"
        )
    values: dict[str, Any] = {
        "name": name,
        "type": vmtype,
        "platform": options.get("platform") or _platform(vmtype),
        "image": str(boot.image),
        **size.settings(),
        **_booted(boot, options),
        **_named(options),
        **options.get("settings", {}),
    }
    spec = checked(TdSpec.from_mapping(values))
    if spec.firmware is None and spec.type is not VmType.LEGACY:
        spec = checked(TdSpec.from_mapping({**values, "firmware": str(_firmware(spec))}))
    return spec


def _platform(vmtype: str) -> str:
    return str(open_platform(None).name) if vmtype == VmType.TD.value else "software"


def _firmware(spec: TdSpec) -> Path:
    try:
        found = choose.firmware(spec)
    except PlatformMissing:
        found = None
    return found if found is not None else default_firmware().path


def _booted(boot: BootFiles, options: GuestOptions) -> dict[str, Any]:
    kind = options.get("boot", boot.boot)
    if kind != BOOT_TYPE_DIRECT:
        return {"boot": kind}
    cmdline = KernelCmdline(str(options.get("cmdline", boot.cmdline)))
    values: dict[str, Any] = {"boot": kind, "cmdline": str(cmdline)}
    kernel, initrd = options.get("kernel", boot.kernel), options.get("initrd", boot.initrd)
    if kernel is not None:
        values["kernel"] = str(kernel)
    if initrd is not None:
        values["initrd"] = str(initrd)
    consoles = [field for field in cmdline if field.startswith("console=")]
    if consoles and not any(field.startswith("console=ttyS0") for field in consoles):
        values["console"] = "hvc"
    return values


def _named(options: GuestOptions) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if "firmware" in options:
        values["firmware"] = str(options["firmware"])
    if options.get("hugepages"):
        values["hugepages"] = options.get("hugepage_size", HUGEPAGES_2M)
    elif "hugepage_size" in options:
        raise UsageError("a size of huge pages without huge pages", hint="add hugepages=True")
    if options.get("vsock") or "vsock_cid" in options:
        values |= {"vsock": True, "vsock_cid": options.get("vsock_cid", 0)}
    if "mac_addr" in options:
        values["mac"] = options["mac_addr"]
    if "ports" in options:
        values["ports"] = list(options["ports"])
    return values


def _rooted(cmdline: str, part: str) -> KernelCmdline:
    """``cmdline`` with another root file system."""
    changed = KernelCmdline(cmdline)
    changed.remove_fields("root")
    changed.add_field("root", part)
    return changed


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given).absolute()

"""The registers to expect of a TD, from its specification: files read, firmware probed, then predicted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tdxstack.errors import UsageError
from tdxstack.measure import FirmwareBlobs, Prediction, PredictionInputs, predict
from tdxstack.measure.boot_disk import BootDisk
from tdxstack.measure.mrtd import MrtdOrder
from tdxstack.vm import choose
from tdxstack.vm.acpi_probe import probe
from tdxstack.vm.disk import opened
from tdxstack.vm.firmware_facts import facts_of, needs_smm
from tdxstack.vm.qemu import argv
from tdxstack.vm.qemu.launch import Launch
from tdxstack.vm.record import TdRecord
from tdxstack.vm.site import require_here
from tdxstack.vm.spec import Boot, Ima, TdSpec, Via
from tdxstack.vm.state import ACTIVE
from tdxstack.wire.tdvf import TdvfMetadata

#: What the software platform's session adds to the argument list, as far as the firmware sees it.
_SOFTWARE_TD = (
    *("-chardev", "socket,id=tdxtpm,path=tpm.sock", "-tpmdev", "emulator,id=tdxtpm0,chardev=tdxtpm"),
    *("-device", "tpm-crb,tpmdev=tdxtpm0", "-chardev", "socket,id=tdxchannel,path=channel.sock,server=on,wait=off"),
    *("-device", "virtserialport,bus=serial0.0,chardev=tdxchannel,name=org.tdxstack.tdx.0"),
)
#: An edk2 release without a platform.
_RELEASE = re.compile(r"(?:edk2-stable)?20[0-9]{4}")
_ANY_MAC = "52:54:00:00:00:01"


def machine_argv(spec: TdSpec, firmware: Path) -> list[str]:
    """The argument list of such a TD on the software dialect, with nothing of it allocated or created.

    Of a TD on hardware too, as far as the ACPI tables go: the devices are the same but for the TPM.
    """
    dialect = choose.dialect(spec)
    launch = Launch(
        run_dir=Path("/run"),
        log_dir=Path("/run"),
        accelerator="tcg",
        mac=spec.mac or _ANY_MAC,
        firmware=firmware,
        smm=needs_smm(firmware),
        disk=Path("/disk") if spec.image is not None else None,
        platform_arguments=() if dialect.hardware else _SOFTWARE_TD,
    )
    return argv.build(spec, dialect, launch)


def expect(
    spec: TdSpec,
    *,
    profile: str | None = None,
    order: MrtdOrder = MrtdOrder.SINGLE_PASS,
    blobs: FirmwareBlobs | None = None,
    disk: Path | None = None,
    machine: Sequence[str] | None = None,
    cache: bool = True,
) -> Prediction:
    """Predict the registers of a TD.

    Args:
        spec: the TD's specification.
        profile: firmware profile, platform or edk2 release; by default the specification's platform with the release
            detected.
        order: in which the launching stack measures the firmware's pages.
        blobs: what QEMU offers the firmware; probed where not given and libvirt has not yet to make the machine.
        disk: the disk as it stands (a TD's overlay); by default the specification's image.
        machine: the argument list that the TD was started with, where it is not the one of ``machine_argv``.
        cache: use and fill the cache of probed blobs.

    Raises:
        UsageError: a file is missing.
        PlatformMissing: no firmware, or QEMU cannot be probed.
        WireError: the firmware is no TDVF, the kernel no bzImage, or the disk is damaged.
    """
    require_here(spec, "its registers are predicted from files")
    path = choose.firmware(spec)
    if path is None:
        raise UsageError("a legacy machine has no measured boot", hint="use a TD (type td) or UEFI firmware")
    firmware = read(path)
    TdvfMetadata.from_bytes(firmware)
    direct = spec.boot is not Boot.GRUB and spec.kernel is not None
    platform = "tdx" if choose.dialect(spec).hardware else "software"
    with _boot_disk(spec, disk) as boot_disk:
        if blobs is None and (direct or boot_disk is not None) and (machine or spec.via is not Via.LIBVIRT):
            variables = boot_disk.variables_file() if boot_disk is not None and not direct else None
            blobs = probe(machine or machine_argv(spec, path), firmware, variables=variables, cache=cache)
        return predict(
            PredictionInputs(
                firmware=firmware,
                memory_bytes=spec.memory,
                kernel=read(spec.kernel) if direct and spec.kernel else None,
                initrd=read(spec.initrd) if direct and spec.initrd else None,
                cmdline=argv.kernel_cmdline(spec) if direct else "",
                blobs=blobs,
                facts=facts_of(firmware, cache=cache),
                profile=f"{platform}-{profile}" if profile and _RELEASE.fullmatch(profile) else profile or platform,
                mrtd_order=order,
                disk=boot_disk,
                ima=spec.ima is not Ima.OFF,
            )
        )


def started_argv(record: TdRecord) -> list[str] | None:
    """The argument list of the TD's running QEMU, where another than this project has put it together.

    None for a machine that ``machine_argv`` describes, and for one of libvirt's that does not run: what libvirt will
    choose is known when it has started.

    Raises:
        SystemFault: it runs, and its QEMU cannot be seen.
    """
    if record.spec.via is not Via.LIBVIRT or record.state not in ACTIVE:
        return None
    from tdxstack.vm.libvirt.started import arguments

    return arguments(record.name)


@contextmanager
def _boot_disk(spec: TdSpec, disk: Path | None) -> Iterator[BootDisk | None]:
    """The TD's disk: the file that is given, else the image it is made from. None for one that does not exist."""
    place = disk or spec.image
    if place is None or not place.is_file():
        yield None
        return
    with opened(place) as reader:
        yield BootDisk(reader)


def read(path: Path) -> bytes:
    """A file's content. Raises UsageError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


def read_blobs(folder: Path, names: Sequence[str]) -> FirmwareBlobs:
    """Blobs from a directory of fw_cfg files, as a guest has under /sys/firmware/qemu_fw_cfg/by_name.

    A file is looked for under its fw_cfg name (``etc/acpi/tables``), with ``/raw`` behind, or with ``_`` for ``/``.
    """
    found: list[tuple[str, bytes]] = []
    for name in names:
        for place in (folder / name / "raw", folder / name, folder / name.replace("/", "_")):
            if place.is_file():
                found.append((name, read(place)))
                break
    return FirmwareBlobs(tuple(found), source=str(folder))

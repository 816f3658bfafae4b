"""Prediction of what is measured of a boot from a disk: partition table, boot loaders, their commands and files.

Followed are unified kernel images made with systemd-stub, and shim with GRUB, as far as GRUB's configuration decides
its own course. Where it does not, the events from there on are unknown, with the reason.

Source: TCG PC Client Platform Firmware Profile 1.06, section 3.3.4 (PCRs 4, 5, 7); edk2 ``DxeTpm2MeasureBootLib``.
"""

from __future__ import annotations

from collections.abc import Callable

from tdxstack.measure.boot_disk import REMOVABLE_PATH, BootDisk
from tdxstack.measure.grub import GrubImage, GrubRun
from tdxstack.measure.kernel_start import efi_stub, systemd_stub
from tdxstack.measure.prediction import PredictionInputs
from tdxstack.measure.secure_boot import SecureBootTrust
from tdxstack.measure.shim import FALLBACK, SECOND_STAGE, Shim
from tdxstack.measure.trace import Trace
from tdxstack.measure.uki import Uki
from tdxstack.wire.efi.variable import load_option_file
from tdxstack.wire.tcg import EventType

_PREFIX_OF_GRUB = "hd0,gpt"
#: Where systemd-stub looks for command line additions and credentials, which it would measure.
_ADDITIONS = ("loader/addons", "loader/credentials")


def disk_boot(trace: Trace, inputs: PredictionInputs, trust: SecureBootTrust | None, end: Callable[[], None]) -> None:
    """The events behind the firmware's separators, to the end of the boot.

    Args:
        trust: what the firmware verifies images by; None where secure boot is off.
        end: adds the events of a kernel that leaves the firmware.

    Raises:
        WireError: the disk or an image on it is damaged.
    """
    disk = inputs.disk
    if disk is None:
        _unknown(trace, "no disk and no kernel is given")
        return
    path = _first_path(inputs)
    found = disk.starting_with(path)
    if found is None:
        _unknown(trace, f"no FAT partition of the disk has {path}")
        return
    number, image = found
    why = "GUID partition table of the disk: header and used entries"
    trace.add(5, EventType.EV_EFI_GPT_EVENT, disk.gpt.event_data(), "partition table", why)
    if trust is not None:
        trust.firmware_verifies(trace, image)
    _DiskBoot(trace, disk, number, trust, end).start(image, path)


def _first_path(inputs: PredictionInputs) -> str:
    """The file that the first boot option names, or the one for removable media."""
    options = dict(inputs.blobs.boot_options) if inputs.blobs is not None else {}
    order = options.get("BootOrder", b"")
    first = options.get(f"Boot{int.from_bytes(order[:2], 'little'):04X}") if len(order) >= 2 else None
    return (load_option_file(first) if first is not None else "") or REMOVABLE_PATH


def _unknown(trace: Trace, reason: str) -> None:
    for pcr, name in ((4, "boot loader"), (8, "operating system")):
        trace.add(pcr, EventType.EV_NO_ACTION, None, name, f"unknown because {reason}")


class _DiskBoot:
    """One boot from a partition; each method adds the events of one stage and starts the next."""

    def __init__(
        self,
        trace: Trace,
        disk: BootDisk,
        partition: int,
        trust: SecureBootTrust | None,
        end: Callable[[], None],
    ) -> None:
        self._trace, self._disk, self._partition = trace, disk, partition
        self._trust, self._end = trust, end

    def start(self, image: bytes, path: str) -> None:
        """An image that the firmware or a shim starts."""
        for read, stage in self._stages():
            if (found := read(image)) is not None:
                stage(found, image, path)
                return
        self._trace.add_image(image, "boot loader", f"file {path}")
        _unknown(self._trace, f"{path} is neither shim, GRUB nor a unified kernel image")

    def _stages(self) -> tuple[tuple[Callable[[bytes], object], Callable[..., None]], ...]:
        return (
            (Uki.from_bytes, self._uki),
            (Shim.from_bytes, self._shim),
            (GrubImage.from_bytes, self._grub),
        )

    def _uki(self, uki: Uki, image: bytes, path: str) -> None:
        self._trace.add_image(image, "unified kernel image", f"file {path}")
        systemd_stub(self._trace, uki, self._additions(path), secure=self._trust is not None)
        self._end()

    def _additions(self, path: str) -> str | None:
        volume = self._disk.volume(self._partition)
        for place in (f"{path}.extra.d", *_ADDITIONS):
            if volume is not None and volume.listing(place):
                return f"unknown because there are additions to the image in {place}"
        return None

    def _shim(self, shim: Shim, image: bytes, path: str) -> None:
        trace, folder = self._trace, path.rpartition("\\")[0]
        trace.add_image(image, "shim", f"file {path}")
        trace.add(14, EventType.EV_IPL, shim.mok_list(), "MokList", "the vendor's key in shim")
        if shim.mok_list_x():
            trace.add(14, EventType.EV_IPL, shim.mok_list_x(), "MokListX", "what shim's vendor forbids")
        level = shim.sbat_level(secure_boot=self._trust is not None)
        why = "the SBAT level that this shim sets" if self._trust else "the first SBAT level: secure boot is off"
        trace.add(7, EventType.EV_EFI_VARIABLE_AUTHORITY, level.to_bytes(), "authority SbatLevel", why)
        trace.add(14, EventType.EV_IPL, b"\1", "MokListTrusted", "shim's default")
        if self._disk.file(self._partition, f"{folder}\\{FALLBACK}") is not None:
            _unknown(trace, f"shim starts {FALLBACK}, which writes boot options and starts again")
            return
        second = self._disk.file(self._partition, f"{folder}\\{SECOND_STAGE}")
        if second is None:
            _unknown(trace, f"there is no {folder}\\{SECOND_STAGE} for shim to start")
            return
        if self._trust is not None:
            self._trust.shim_verifies(trace, second, shim)
        self.start(second, f"{folder}\\{SECOND_STAGE}")

    def _grub(self, grub: GrubImage, image: bytes, path: str) -> None:
        trace, reads = self._trace, grub.config_reads
        trace.add_image(image, "GRUB", f"file {path}")
        if grub.embedded_config or reads is None or not grub.prefix.startswith("/"):
            _unknown(trace, "the start of a GRUB that is not Debian's or Ubuntu's signed one is not followed")
            return
        run = GrubRun(f"{_PREFIX_OF_GRUB}{self._partition}", grub.prefix, self._read)
        run.run(reads)
        for event in run.events:
            trace.add(event.pcr, EventType.EV_IPL, event.measured, event.name, event.why)
        if run.unknown is not None or run.kernel is None:
            _unknown(trace, run.unknown or "no kernel is started")
            return
        if not grub.own_loader:
            _unknown(trace, "whether this GRUB lets the firmware start the kernel is not known")
            return
        if self._trust is not None:
            trace.add_image(run.kernel, "kernel", "the kernel that GRUB has shim check, which measures it")
            self._trust.shim_verifies(trace, run.kernel, None)
        efi_stub(trace, run.cmdline, run.initrd)
        self._end()

    def _read(self, device: str, path: str) -> bytes | None:
        """A file by GRUB's names; there is one disk."""
        number = device.removeprefix(_PREFIX_OF_GRUB)
        known = device.startswith(_PREFIX_OF_GRUB) and number.isdecimal()
        return self._disk.file(int(number), path) if known else None

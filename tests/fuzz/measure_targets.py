"""Targets for what prediction reads: boot loaders, GRUB's configuration, disks, tables, predictions.

A disk is large: its target takes changes to one, as a run of (offset, length, bytes).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from functools import cache

from tdxstack.errors import UsageError, WireError
from tdxstack.measure.acpi_blobs import loader_of_tables, rsdp_of_tables
from tdxstack.measure.blobs import FirmwareBlobs
from tdxstack.measure.boot_disk import REMOVABLE_PATH, BootDisk
from tdxstack.measure.export import prediction_from_members, prediction_members
from tdxstack.measure.grub import GrubImage, GrubRun
from tdxstack.measure.shim import Shim
from tdxstack.measure.smbios import measured_smbios
from tdxstack.measure.uki import Uki
from tdxstack.vm.marker_disk import marker_disk
from tdxstack.vm.marker_kernel import marker_kernel
from tdxstack.wire.block import part_of, reader_of
from tdxstack.wire.efi.variable import load_option_description, load_option_file
from tdxstack.wire.fat import FatVolume
from tdxstack.wire.gpt import Gpt
from tdxstack.wire.hob import TdHob
from tdxstack.wire.qcow2 import Qcow2

_MARKER_PARTITION = 64 * 512
_READ = 1 << 20


def programs(data: bytes) -> None:
    """Boot loaders: unified kernel images, shims, GRUBs."""
    for read in (Shim.from_bytes, GrubImage.from_bytes):
        with suppress(WireError):
            read(data)
    with suppress(WireError):
        if (uki := Uki.from_bytes(data)) is not None:
            uki.measured()
            uki.initrd()
            uki.cmdline()


def grub_script(data: bytes) -> None:
    """GRUB's configuration."""
    run = GrubRun("hd0,gpt1", "/grub", lambda _, path: data if path == "/grub/grub.cfg" else None)
    run.run(2)
    assert run.unknown is not None


@cache
def _disk() -> bytes:
    return marker_disk(marker_kernel(), b"variables")


def _changed(base: bytes, changes: bytes) -> bytes:
    image, position = bytearray(base), 0
    while position + 4 < len(changes):
        where = int.from_bytes(changes[position : position + 3], "little") % len(image)
        length = changes[position + 3]
        part = changes[position + 4 : position + 4 + length]
        image[where : where + len(part)] = part
        position += 4 + length
    return bytes(image)


def disk(data: bytes) -> None:
    """FAT, GPT and qcow2: of the data themselves, and a FAT file system with changes."""
    for raw in (data, _changed(_disk(), data)):
        reader = reader_of(raw)
        for read in (Gpt.from_disk, lambda one: Qcow2(one).read(0, _READ)):
            with suppress(WireError):
                read(reader)
        BootDisk(reader).variables_file()
        with suppress(WireError):
            volume = FatVolume(part_of(reader, _MARKER_PARTITION, len(raw)))
            volume.listing("EFI")
            volume.file(REMOVABLE_PATH)


def tables(data: bytes) -> None:
    """What QEMU hands to the firmware, boot options, the TD HOB."""
    for read in (
        loader_of_tables,
        rsdp_of_tables,
        TdHob.from_bytes,
        lambda raw: measured_smbios(raw, ("a", "b", "c")),
    ):
        with suppress(WireError):
            read(data)
    with suppress(WireError):
        FirmwareBlobs((("etc/table-loader", data), ("etc/acpi/tables", data))).acpi()
    load_option_file(data)
    load_option_description(data)


def prediction(data: bytes) -> None:
    """Predictions as JSON."""
    try:
        members = json.loads(data)
    except (ValueError, RecursionError):
        return
    with suppress(UsageError):
        json.dumps(prediction_members(prediction_from_members(members)))


_ALL = (programs, grub_script, disk, tables, prediction)
MEASURE_TARGETS: dict[str, Callable[[bytes], None]] = {target.__name__: target for target in _ALL}

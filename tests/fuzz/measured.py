"""Targets for what measurement reads: IMA lists, firmware, variables, images, disks, tables, predictions; and for
frames of the quote generation service. Event logs: ``targets.eventlog``.

A disk is large: its target takes changes to one, as a run of (offset, length, bytes).
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache

from tdxstack.errors import UsageError, WireError
from tdxstack.measure.acpi_blobs import loader_of_tables, rsdp_of_tables
from tdxstack.measure.blobs import FirmwareBlobs
from tdxstack.measure.boot import read_boot
from tdxstack.measure.boot_disk import REMOVABLE_PATH, BootDisk
from tdxstack.measure.export import prediction_from_members, prediction_members
from tdxstack.measure.grub import GrubImage, GrubRun
from tdxstack.measure.mrtd import MrtdOrder, mrtd
from tdxstack.measure.shim import Shim
from tdxstack.measure.smbios import measured_smbios
from tdxstack.measure.uki import Uki
from tdxstack.vm.marker_disk import marker_disk
from tdxstack.vm.marker_kernel import marker_kernel
from tdxstack.wire import qgs as protocol
from tdxstack.wire.acpi import allocated_files
from tdxstack.wire.block import part_of, reader_of
from tdxstack.wire.ccel import CcelTable
from tdxstack.wire.efi.signatures import read_lists
from tdxstack.wire.efi.variable import VariableData, load_option_description, load_option_file
from tdxstack.wire.efi.varstore import VariableStore
from tdxstack.wire.efi.volume import payloads, volumes
from tdxstack.wire.fat import FatVolume
from tdxstack.wire.gpt import Gpt
from tdxstack.wire.hob import TdHob
from tdxstack.wire.ima import read_list
from tdxstack.wire.pe import authenticode
from tdxstack.wire.qcow2 import Qcow2
from tdxstack.wire.smbios import SmbiosTable

#: Firmware is read from its end; what stands before it here is as good as any.
_FIRMWARE = 0x20000
_MARKER_PARTITION = 64 * 512
_READ = 1 << 20


def _only_wire_errors(*reads: Callable[[bytes], object]) -> Callable[[bytes], None]:
    def target(data: bytes) -> None:
        for read in reads:
            with suppress(WireError):
                read(data)

    return target


def ccel(data: bytes) -> None:
    """The ACPI table, and what says of the boot the log behind it."""
    with suppress(WireError):
        assert CcelTable.from_bytes(data).to_bytes()
    record = read_boot(data, data)
    assert len(record.rtmrs) == 4


def ima(data: bytes) -> None:
    """IMA lists, ASCII and binary."""
    with suppress(WireError):
        for entry in read_list(data):
            _ = (entry.digest_holds, entry.extended())


def tdvf(data: bytes) -> None:
    """Firmware: TDVF metadata and what they measure, the variable store, volumes and what they hold."""
    firmware = bytes(max(0, _FIRMWARE - len(data))) + data
    _FIRMWARE_READS(firmware)
    _FIRMWARE_READS(data)


_FIRMWARE_READS = _only_wire_errors(
    *(lambda data, order=order: mrtd(data, order) for order in MrtdOrder),
    VariableStore.from_bytes,
    volumes,
    payloads,
)
variables = _only_wire_errors(VariableData.from_bytes, read_lists, TdHob.from_bytes, allocated_files)
pe = _only_wire_errors(lambda data: authenticode(data, "sha384", "sha256"))
smbios = _only_wire_errors(SmbiosTable.from_bytes, lambda data: measured_smbios(data, ("a", "b", "c")))


def gpt(data: bytes) -> None:
    """Partition tables, whose checksums are made right first: a fuzzer would not get past them."""
    disk = bytearray(data.ljust(2048, b"\0"))
    count, size = struct.unpack_from("<II", disk, 592)
    (table,) = struct.unpack_from("<Q", disk, 584)
    struct.pack_into("<I", disk, 600, zlib.crc32(_part(disk, table * 512, min(count * size, 1 << 20))))
    header = bytes(disk[512 : 512 + min(struct.unpack_from("<I", disk, 524)[0], 512)])
    struct.pack_into("<I", disk, 528, zlib.crc32(header[:16] + bytes(4) + header[20:]))
    with suppress(WireError):
        Gpt.from_disk(lambda offset, length: _part(disk, offset, length)).event_data()


def _part(disk: bytearray, offset: int, length: int) -> bytes:
    return bytes(disk[offset : offset + length]).ljust(length, b"\0")


qgs = _only_wire_errors(
    protocol.parse, protocol.unframe, lambda data: protocol.parse(protocol.unframe(data)), protocol.frame_length
)


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
    """FAT and qcow2: of the data themselves, and a FAT file system with changes."""
    for raw in (data, _changed(_disk(), data)):
        reader = reader_of(raw)
        with suppress(WireError):
            Qcow2(reader).read(0, _READ)
        BootDisk(reader).variables_file()
        with suppress(WireError):
            volume = FatVolume(part_of(reader, _MARKER_PARTITION, len(raw)))
            volume.listing("EFI")
            volume.file(REMOVABLE_PATH)


def tables(data: bytes) -> None:
    """What QEMU hands to the firmware, and boot options."""
    for read in (loader_of_tables, rsdp_of_tables):
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


TARGETS: dict[str, Callable[[bytes], None]] = {
    "ccel": ccel,
    "ima": ima,
    "tdvf": tdvf,
    "variables": variables,
    "pe": pe,
    "smbios": smbios,
    "gpt": gpt,
    "qgs": qgs,
    "programs": programs,
    "grub_script": grub_script,
    "disk": disk,
    "tables": tables,
    "prediction": prediction,
}

"""Targets for what measurement reads: event logs, IMA lists, firmware, variables, images, partition tables, SMBIOS;
and for frames of the quote generation service."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from contextlib import suppress

from tdxstack.errors import WireError
from tdxstack.measure.boot import event_members, read_boot
from tdxstack.measure.check import false_descriptions
from tdxstack.measure.describe import describe
from tdxstack.measure.logs import load
from tdxstack.measure.replay import replay, replay_tpm
from tdxstack.measure.uki import Uki
from tdxstack.wire import gpt as partitions
from tdxstack.wire import qgs as protocol
from tdxstack.wire.acpi import allocated_files
from tdxstack.wire.ccel import CcelTable
from tdxstack.wire.efi.signatures import read_lists
from tdxstack.wire.efi.variable import VariableData
from tdxstack.wire.efi.varstore import VariableStore
from tdxstack.wire.efi.volume import payloads, volumes
from tdxstack.wire.hob import TdHob
from tdxstack.wire.ima import read_list
from tdxstack.wire.pe import authenticode
from tdxstack.wire.smbios import SmbiosTable
from tdxstack.wire.tdvf import TdvfMetadata

#: Firmware is read from its end; what stands before it here is as good as any.
_FIRMWARE = 0x20000


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


def tcg(data: bytes) -> None:
    """Event logs of any format: read, replayed, described, written again."""
    try:
        loaded = load(data)
    except WireError:
        return
    replay(loaded.log)
    replay_tpm(loaded.original)
    false_descriptions(loaded.log.events)
    event_members(loaded.log)
    for event in loaded.log.events:
        assert describe(event).isprintable()


def ima(data: bytes) -> None:
    """IMA lists, ASCII and binary."""
    with suppress(WireError):
        for entry in read_list(data):
            _ = (entry.digest_holds, entry.extended())


def tdvf(data: bytes) -> None:
    """Firmware: TDVF metadata, the variable store, volumes and what they hold."""
    firmware = bytes(max(0, _FIRMWARE - len(data))) + data
    _FIRMWARE_READS(firmware)
    _FIRMWARE_READS(data)


_FIRMWARE_READS = _only_wire_errors(TdvfMetadata.from_bytes, VariableStore.from_bytes, volumes, payloads)
variables = _only_wire_errors(VariableData.from_bytes, read_lists, TdHob.from_bytes, allocated_files)
pe = _only_wire_errors(lambda data: authenticode(data, "sha384", "sha256"), Uki.from_bytes)
smbios = _only_wire_errors(SmbiosTable.from_bytes)


def gpt(data: bytes) -> None:
    """Partition tables, whose checksums are made right first: a fuzzer would not get past them."""
    disk = bytearray(data.ljust(2048, b"\0"))
    count, size = struct.unpack_from("<II", disk, 592)
    (table,) = struct.unpack_from("<Q", disk, 584)
    struct.pack_into("<I", disk, 600, zlib.crc32(_part(disk, table * 512, min(count * size, 1 << 20))))
    header = bytes(disk[512 : 512 + min(struct.unpack_from("<I", disk, 524)[0], 512)])
    struct.pack_into("<I", disk, 528, zlib.crc32(header[:16] + bytes(4) + header[20:]))
    with suppress(WireError):
        partitions.Gpt.from_disk(lambda offset, length: _part(disk, offset, length)).event_data()


def _part(disk: bytearray, offset: int, length: int) -> bytes:
    return bytes(disk[offset : offset + length]).ljust(length, b"\0")


qgs = _only_wire_errors(
    protocol.parse, protocol.unframe, lambda data: protocol.parse(protocol.unframe(data)), protocol.frame_length
)

TARGETS: dict[str, Callable[[bytes], None]] = {
    "ccel": ccel,
    "tcg": tcg,
    "ima": ima,
    "tdvf": tdvf,
    "variables": variables,
    "pe": pe,
    "smbios": smbios,
    "gpt": gpt,
    "qgs": qgs,
}

"""GUID partition tables, and the event that firmware measures of one.

Source: UEFI 2.10, section 5.3 (GPT disk layout); TCG PC Client Platform Firmware Profile 1.06, section 10.4.1
(EV_EFI_GPT_EVENT: UEFI_GPT_DATA); edk2 ``DxeTpm2MeasureBootLib`` for what of it is hashed.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from uuid import UUID

from tdxstack.errors import WireError
from tdxstack.wire.block import SECTOR, ReadAt, exactly, part_of

SIGNATURE = b"EFI PART"
ESP_TYPE = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_ENTRY = struct.Struct("<16s16sQQQ72s")
_COUNT = struct.Struct("<Q")
_CRC_AT = 16
#: The specification's minimum is 128 entries of 128 bytes; nobody makes tables as long as this.
MAX_ENTRIES = 4096
MAX_ENTRY_SIZE = 4096
MAX_TABLE = 4 << 20


@dataclass(frozen=True, slots=True)
class Partition:
    """One used entry. ``number`` counts entries from 1; ``first_lba`` and ``last_lba`` are inclusive."""

    number: int
    type_guid: UUID
    guid: UUID
    first_lba: int
    last_lba: int
    attributes: int
    name: str
    raw: bytes

    @property
    def length(self) -> int:
        """Bytes, for 512-byte sectors."""
        return (self.last_lba - self.first_lba + 1) * SECTOR

    def reader(self, disk: ReadAt) -> ReadAt:
        """A reader of this partition's bytes."""
        return part_of(disk, self.first_lba * SECTOR, self.length)


@dataclass(frozen=True, slots=True)
class Gpt:
    """A partition table: its header (92 bytes) as it stands on the disk, and its used entries in order."""

    header: bytes
    disk_guid: UUID
    entry_size: int
    partitions: tuple[Partition, ...]

    @classmethod
    def from_disk(cls, read: ReadAt) -> Gpt:
        """The primary table of a disk with 512-byte sectors.

        Raises:
            WireError: there is none, or one of its two checksums does not hold.
        """
        block = exactly(read, "GPT", "header", SECTOR, SECTOR)
        fields = _HEADER.unpack_from(block)
        signature, _, size, crc, _, _, _, _, _, guid, table_lba, count, entry_size, table_crc = fields
        if signature != SIGNATURE:
            raise WireError("GPT", "Signature", SECTOR, "no GUID partition table (no 'EFI PART')")
        if not _HEADER.size <= size <= SECTOR:
            raise WireError("GPT", "HeaderSize", SECTOR + 12, f"{size} bytes")
        blank = block[:_CRC_AT] + bytes(4) + block[_CRC_AT + 4 : size]
        if zlib.crc32(blank) != crc:
            raise WireError("GPT", "HeaderCRC32", SECTOR + _CRC_AT, "the header's checksum does not hold")
        if not 1 <= count <= MAX_ENTRIES or not _ENTRY.size <= entry_size <= MAX_ENTRY_SIZE or entry_size % 8:
            raise WireError("GPT", "NumberOfPartitionEntries", SECTOR + 80, f"{count} entries of {entry_size} bytes")
        if count * entry_size > MAX_TABLE:
            raise WireError("GPT", "SizeOfPartitionEntry", SECTOR + 84, f"a table of {count * entry_size} bytes")
        table = exactly(read, "GPT", "PartitionEntryLBA", table_lba * SECTOR, count * entry_size)
        if zlib.crc32(table) != table_crc:
            raise WireError("GPT", "PartitionEntryArrayCRC32", SECTOR + 88, "the table's checksum does not hold")
        return cls(block[: _HEADER.size], UUID(bytes_le=guid), entry_size, _partitions(table, entry_size))

    def event_data(self) -> bytes:
        """UEFI_GPT_DATA: header, number of used entries, these entries. Firmware logs and hashes these bytes."""
        return self.header + _COUNT.pack(len(self.partitions)) + b"".join(one.raw for one in self.partitions)

    def of_type(self, type_guid: UUID) -> tuple[Partition, ...]:
        """The partitions of one type."""
        return tuple(one for one in self.partitions if one.type_guid == type_guid)


def _partitions(table: bytes, entry_size: int) -> tuple[Partition, ...]:
    found: list[Partition] = []
    for number, start in enumerate(range(0, len(table), entry_size), 1):
        raw = table[start : start + entry_size]
        kind, guid, first, last, attributes, name = _ENTRY.unpack_from(raw)
        if not any(kind):
            continue
        if last < first:
            raise WireError("GPT", f"entry {number}", start + 32, f"ends (LBA {last}) before it starts (LBA {first})")
        text = name.decode("utf-16-le", "replace").partition("\0")[0]
        found.append(Partition(number, UUID(bytes_le=kind), UUID(bytes_le=guid), first, last, attributes, text, raw))
    return tuple(found)

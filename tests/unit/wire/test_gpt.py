from __future__ import annotations

import contextlib
import struct
import zlib
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import WireError
from tdxstack.wire.block import ReadAt, reader_of
from tdxstack.wire.gpt import ESP_TYPE, Gpt

LINUX = UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
DISK = UUID("b4fd712b-34b5-43be-9b71-24ec374a9f5f")


def disk(*partitions: tuple[UUID, int, int, str], slots: int = 128, entry_size: int = 128, **change: int) -> bytes:
    """A disk of 1 MiB; partitions are (type, first LBA, last LBA, name), None's place is an unused entry."""
    table = bytearray(slots * entry_size)
    for number, (kind, first, last, name) in enumerate(partitions):
        entry = struct.pack(
            "<16s16sQQQ72s", kind.bytes_le, bytes([number] * 16), first, last, 0, name.encode("utf-16-le")
        )
        table[number * entry_size : number * entry_size + len(entry)] = entry
    fields = {"size": 92, "count": slots, "entry_size": entry_size, "table_lba": 2, **change}
    crc = zlib.crc32(bytes(table))
    numbers = (fields["table_lba"], fields["count"], fields["entry_size"], crc)
    layout = struct.Struct("<8sIIIIQQQQ16sQIII")
    parts = [b"EFI PART", 0x10000, fields["size"], 0, 0, 1, 2047, 34, 2014, DISK.bytes_le, *numbers]
    parts[3] = zlib.crc32(layout.pack(*parts)[: fields["size"]])
    image = bytearray(1 << 20)
    image[512 : 512 + layout.size] = layout.pack(*parts)
    image[1024 : 1024 + len(table)] = table
    return bytes(image)


GOOD = disk((ESP_TYPE, 40, 139, "esp"), (UUID(int=0), 0, 0, ""), (LINUX, 140, 239, "root"))


def test_partitions() -> None:
    table = Gpt.from_disk(reader_of(GOOD))
    assert table.disk_guid == DISK
    assert [(one.number, one.name, one.first_lba, one.length) for one in table.partitions] == [
        (1, "esp", 40, 51200),
        (3, "root", 140, 51200),
    ]
    assert table.of_type(ESP_TYPE)[0].reader(reader_of(GOOD))(51200 - 4, 100) == bytes(4)


def test_event_data_has_the_used_entries_alone() -> None:
    data = Gpt.from_disk(reader_of(GOOD)).event_data()
    assert data[:92] == GOOD[512:604]
    assert data[92:100] == (2).to_bytes(8, "little")
    assert data[100:] == GOOD[1024:1152] + GOOD[1280:1408]


@pytest.mark.parametrize(
    ("image", "field"),
    [
        (bytes(4096), "Signature"),
        (GOOD[:600], "header"),
        (GOOD[:1200], "PartitionEntryLBA"),
        (GOOD[:520] + b"\1" + GOOD[521:], "HeaderCRC32"),
        (GOOD[:1030] + b"\1" + GOOD[1031:], "PartitionEntryArrayCRC32"),
        (disk(size=20), "HeaderSize"),
        (disk(count=1 << 30), "NumberOfPartitionEntries"),
        (disk(count=4096, entry_size=4096), "SizeOfPartitionEntry"),
        (disk(entry_size=130, count=1), "NumberOfPartitionEntries"),
        (disk(table_lba=1 << 62), "PartitionEntryLBA"),
        (disk((LINUX, 50, 49, "x")), "entry 1"),
    ],
)
def test_damage_is_named(image: bytes, field: str) -> None:
    with pytest.raises(WireError) as caught:
        Gpt.from_disk(reader_of(image))
    assert caught.value.field == field


@given(st.binary(max_size=200), st.integers(0, 1100))
def test_nothing_but_wire_errors(noise: bytes, where: int) -> None:
    image = GOOD[:where] + noise + GOOD[where + len(noise) :]
    read: ReadAt = reader_of(image)
    with contextlib.suppress(WireError):
        Gpt.from_disk(read).event_data()

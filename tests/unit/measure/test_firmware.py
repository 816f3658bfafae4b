"""What a firmware file tells of itself: a made-up one, and those that happen to be installed."""

from __future__ import annotations

import hashlib
import lzma
import struct
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import WireError
from tdxstack.measure.firmware import SMBIOS_MEASUREMENT_GUID, TCG2_DXE_GUID, inspect, measures_boot
from tdxstack.wire.efi.volume import LZMA_GUID, payloads, volumes
from tdxstack.wire.tdvf import TD_TCG2_DXE_GUID


def ffs_file(name: UUID, content: bytes) -> bytes:
    size = 24 + len(content)
    data = name.bytes_le + b"\0\0\x07\0" + size.to_bytes(3, "little") + b"\xf8" + content
    return data + b"\xff" * (-len(data) % 8)


def volume(*files: bytes) -> bytes:
    body = b"".join(files) + b"\xff" * 64
    header = bytearray(72)
    struct.pack_into("<Q4sIHHHBB", header, 32, 72 + len(body), b"_FVH", 0, 72, 0, 0, 0, 2)
    total = sum(struct.unpack("<36H", header)) & 0xFFFF
    struct.pack_into("<H", header, 50, -total & 0xFFFF)
    return bytes(header) + body


def compressed(payload: bytes) -> bytes:
    data = lzma.compress(payload, format=lzma.FORMAT_ALONE)
    return (24 + len(data)).to_bytes(3, "little") + b"\x02" + LZMA_GUID.bytes_le + struct.pack("<HH", 24, 1) + data


def strings(*texts: str) -> bytes:
    return b"".join(text.encode("utf-16-le") + b"\0\0\0\0" for text in texts)


IDENTITY = strings("02/02/2022", "09/26/2026", "2026.08-1", "A vendor")
NEW = volume(
    ffs_file(TD_TCG2_DXE_GUID, b"driver"),
    ffs_file(TCG2_DXE_GUID, b"driver"),
    ffs_file(SMBIOS_MEASUREMENT_GUID, b"ACPI DATA\0initrd=initrd \0"),
    ffs_file(UUID(int=1), IDENTITY),
)


def test_facts_of_a_made_up_firmware() -> None:
    facts = inspect(bytes(256) + compressed(NEW) + bytes(64))
    assert facts.measures_td
    assert facts.measures_tpm
    assert not facts.secure_boot
    assert facts.release == "202508"
    assert facts.smbios_strings == ("A vendor", "2026.08-1", "09/26/2026")
    assert facts.loaded_volumes == (hashlib.sha384(NEW).digest(),)


@pytest.mark.parametrize(
    ("marks", "release"),
    [
        ([ffs_file(SMBIOS_MEASUREMENT_GUID, b"\0 initrd=initrd\0")], "202505"),
        ([ffs_file(UUID(int=2), b"etc/boot/ ACPI DATA")], "202502"),
        ([ffs_file(UUID(int=2), b"ACPI DATA")], "202411"),
        ([], "202211"),
    ],
)
def test_release_by_its_marks(marks: list[bytes], release: str) -> None:
    facts = inspect(compressed(volume(*marks)))
    assert facts.release == release
    assert not facts.measures_td
    assert facts.smbios_strings is None


def test_a_guid_that_is_no_file_does_not_count() -> None:
    assert not measures_boot(compressed(volume(ffs_file(UUID(int=3), TD_TCG2_DXE_GUID.bytes_le))))
    assert measures_boot(compressed(NEW))


def test_volume_without_a_right_checksum_is_none() -> None:
    damaged = bytearray(NEW)
    damaged[50] ^= 1
    assert volumes(bytes(damaged)) == []
    assert [one.data for one in volumes(b"xx" + NEW)] == [NEW]


def test_damaged_compression_is_told() -> None:
    data = bytearray(compressed(NEW))
    data[24] = 0xFF
    with pytest.raises(WireError, match="LZMA"):
        payloads(bytes(data))


@given(st.integers(0, 200), st.binary(min_size=1, max_size=16))
def test_damage_raises_nothing_but_wire_errors(offset: int, junk: bytes) -> None:
    data = bytes(8) + compressed(NEW)
    try:
        inspect(data[:offset] + junk + data[offset + len(junk) :])
    except WireError as error:
        assert error.structure


def test_debian_12_firmware_measures_nothing() -> None:
    path = Path("/usr/share/ovmf/OVMF.fd")
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest()[:8] != "7b456907":
        pytest.skip("not Debian 12's OVMF")
    facts = inspect(path.read_bytes())
    assert (facts.measures_td, facts.measures_tpm, facts.secure_boot) == (False, True, True)

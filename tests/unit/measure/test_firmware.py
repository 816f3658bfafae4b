"""What a firmware file tells of itself: a made-up one, and those that happen to be installed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_file import GENERIC_4M, compressed, ffs_file, firmware_file, strings, volume
from tdxstack.errors import WireError
from tdxstack.measure.firmware import SMBIOS_MEASUREMENT_GUID, TCG2_DXE_GUID, inspect, measures_boot
from tdxstack.wire.efi.volume import payloads, volumes
from tdxstack.wire.tdvf import TD_TCG2_DXE_GUID, Section, SectionType

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


@pytest.mark.parametrize(
    ("version", "release"),
    [
        ("2024.02-2ubuntu0.1", "202408"),
        ("2023.11-8", "202408"),
        ("edk2-20240524-6.el9", "202408"),
        ("2024.11-1", "202411"),
        ("edk2-20241117-2.el9", "202411"),
        ("unknown", "202411"),
        ("1202402", "202411"),
    ],
)
def test_between_two_marks_the_version_tells_where_the_separator_goes(version: str, release: str) -> None:
    """Nothing else in the file does: RTMR0 and RTMR1 of Ubuntu 24.04's firmware are otherwise predicted wrong."""
    identity = ffs_file(UUID(int=1), strings("02/29/2024", version, "A vendor"))
    assert inspect(compressed(volume(ffs_file(UUID(int=2), b"ACPI DATA"), identity))).release == release


def test_a_version_does_not_outweigh_the_marks() -> None:
    identity = ffs_file(UUID(int=1), strings("02/29/2024", "2024.02-2", "A vendor"))
    newer = volume(ffs_file(UUID(int=2), b"etc/boot/ ACPI DATA"), identity)
    assert inspect(compressed(newer)).release == "202502"


def test_td_shim_measures_itself() -> None:
    payload = Section(0x1000, 0x1000, 0x200000, 0x1000, SectionType.PAYLOAD, 0)
    shim = firmware_file((*GENERIC_4M, payload), layout="td-shim")
    assert measures_boot(shim)
    assert not measures_boot(firmware_file(GENERIC_4M, layout="td-shim"))


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

"""MRTD against an independent way to compute it, and against values known from other tools."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from firmware_file import GENERIC_4M, firmware_file
from tdxstack.measure.mrtd import MrtdOrder, mrtd
from tdxstack.wire.tdvf import Section, SectionType

#: sha256 of the file -> (single pass, two passes); computed alike by Fraunhofer's and td-shim's calculators.
KNOWN = {
    "7b456907": (
        "4c7206f0f483c524f12c366c711e9049030a8d47c471ee5aa9c4999a08de4057fb887fed0744d5631a212967fb231c47",
        "acccbcc870a381adab0d3919d90a7f268ac3b0364771f202ed4bb4e892d045b33db3b32e6924cba830a724eed443f7e1",
    ),
    "14954040": (
        "bdc6fb145880f06f30c8b346b8dce2a99d9351b56892df22f80fcf6574caa9f9c31df8e8576d53b4d0cd1c3f28910e11",
        "456f07902150d008bb913c3e1e84e9297f735a6c83cd2a957a1f0a8bbedb06df188e3837ae48d32c73d473d097dc0db2",
    ),
    "6a3e8f43": (
        "ab742989d480d040f178cf83c3ae0734f923dbddb7325b4a826e0d87c30cb299aff85beb23ad30a1c6f975a8d0ce3e7a",
        "d137701167ce1e42b0cce3e4e9d658f0caa19591aa5787014f2ff8a89057d81597e4fa7f0990813882525937e8191d1e",
    ),
    "a265075b": (
        "a7a1f751abc454f9cbab198ca8d2edb2821935df525c74182b5e776cb0929e8c59aefecce725b0d08a5e9d3d3183bd08",
        "b90b236113eb4c0d4df4ef590568c14e6028a3a31d7e8ac63dee9845df5008d3ebf82d4f5974e933798f65d7a279b9a9",
    ),
}
SMALL = (
    Section(0x1000, 0x1800, 0xFFFFE000, 0x2000, SectionType.BFV, 1),
    Section(0, 0x1000, 0xFFFFD000, 0x1000, SectionType.CFV, 0),
    Section(0, 0, 0x809000, 0x1000, SectionType.TD_HOB, 0),
)


def by_the_book(firmware: bytes, sections: tuple[Section, ...], *, two_pass: bool) -> str:
    """One update per module call, as TDH.MEM.PAGE.ADD and TDH.MR.EXTEND are specified."""
    digest = hashlib.sha384()

    def call(name: bytes, gpa: int) -> None:
        digest.update(name.ljust(16, b"\0") + gpa.to_bytes(8, "little") + bytes(104))

    def extend_page(section: Section, page: int) -> None:
        data = firmware[section.data_offset : section.data_offset + section.raw_size].ljust(
            section.memory_size, b"\0"
        )
        for chunk in range(page, page + 4096, 256):
            call(b"MR.EXTEND", section.gpa + chunk)
            digest.update(data[chunk : chunk + 256])

    for section in sections:
        for page in range(0, section.memory_size, 4096):
            call(b"MEM.PAGE.ADD", section.gpa + page)
            if section.attributes & 1 and not two_pass:
                extend_page(section, page)
        if section.attributes & 1 and two_pass:
            for page in range(0, section.memory_size, 4096):
                extend_page(section, page)
    return digest.hexdigest()


@pytest.mark.parametrize("order", MrtdOrder)
@pytest.mark.parametrize("sections", [SMALL, GENERIC_4M])
def test_the_same_as_call_by_call(order: MrtdOrder, sections: tuple[Section, ...]) -> None:
    firmware = firmware_file(sections)
    assert mrtd(firmware, order).hex() == by_the_book(firmware, sections, two_pass=order is MrtdOrder.TWO_PASS)


def test_a_changed_byte_shows_only_where_it_is_measured() -> None:
    firmware = bytearray(firmware_file(SMALL))
    before = mrtd(bytes(firmware))
    firmware[0x10] ^= 1
    assert mrtd(bytes(firmware)) == before, "the configuration volume is not in MRTD"
    firmware[0x1010] ^= 1
    assert mrtd(bytes(firmware)) != before


def test_the_installed_firmware() -> None:
    path = Path("/usr/share/ovmf/OVMF.fd")
    if not path.is_file():
        pytest.skip("no OVMF installed")
    data = path.read_bytes()
    known = KNOWN.get(hashlib.sha256(data).hexdigest()[:8])
    if known is None:
        pytest.skip("this firmware's MRTD is not on record")
    assert mrtd(data).hex() == known[0]
    assert mrtd(data, MrtdOrder.TWO_PASS).hex() == known[1]

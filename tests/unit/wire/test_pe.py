from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import WireError
from tdxstack.vm.marker_kernel import marker_kernel
from tdxstack.wire.pe import PeImage, authenticode

IMAGE = marker_kernel()
PE = 0x400
CHECKSUM = PE + 24 + 64
SECURITY = PE + 24 + 112 + 32


def by_the_book(image: bytes) -> bytes:
    """The whole file without CheckSum, the security directory entry and the certificate table."""
    certificates = struct.unpack_from("<I", image, SECURITY + 4)[0]
    kept = image[:CHECKSUM] + image[CHECKSUM + 4 : SECURITY] + image[SECURITY + 8 : len(image) - certificates]
    return hashlib.sha384(kept).digest()


def signed(image: bytes, certificate: bytes) -> bytes:
    whole = bytearray(image + certificate)
    struct.pack_into("<II", whole, SECURITY, len(image), len(certificate))
    return bytes(whole)


def test_digest_of_a_plain_image() -> None:
    assert authenticode(IMAGE, "sha384")[0] == by_the_book(IMAGE)
    assert len(authenticode(IMAGE, "sha384", "sha256")) == 2


def test_signature_and_checksum_do_not_count() -> None:
    changed = bytearray(signed(IMAGE, bytes(64)))
    struct.pack_into("<I", changed, CHECKSUM, 0x12345678)
    assert authenticode(bytes(changed), "sha384") == authenticode(IMAGE, "sha384")


def test_data_behind_the_sections_counts_without_padding() -> None:
    longer = IMAGE + b"xyz"
    assert authenticode(longer, "sha384")[0] == by_the_book(longer)
    assert authenticode(longer, "sha384") != authenticode(IMAGE, "sha384")


def test_every_other_byte_counts() -> None:
    before = authenticode(IMAGE, "sha384")
    for offset in (0x20, 0x210, 0x1000, len(IMAGE) - 1):
        changed = bytearray(IMAGE)
        changed[offset] ^= 1
        assert authenticode(bytes(changed), "sha384") != before


def test_sections_by_name() -> None:
    content = PeImage.from_bytes(IMAGE).section(IMAGE, ".text")
    assert content is not None
    assert len(content) == 0x1000
    assert PeImage.from_bytes(IMAGE).section(IMAGE, ".data") is None


@pytest.mark.parametrize(
    ("offset", "value", "field"),
    [
        (0x00, b"XX", "e_magic"),
        (0x3C, b"\xff\xff\xff\xff", "Signature"),
        (PE + 6, b"\xff\xff", "NumberOfSections"),
        (PE + 24, b"\0\0", "Magic"),
        (PE + 24 + 60, b"\xff\xff\xff\x7f", "SizeOfHeaders"),
        (PE + 264 + 16, b"\xff\xff\xff\x7f", "SizeOfRawData"),
    ],
)
def test_damage_is_named(offset: int, value: bytes, field: str) -> None:
    with pytest.raises(WireError) as caught:
        PeImage.from_bytes(IMAGE[:offset] + value + IMAGE[offset + len(value) :])
    assert caught.value.field == field


@given(st.integers(0, 0x600), st.binary(min_size=1, max_size=16), st.integers(0, 0x2000))
def test_damage_raises_nothing_but_wire_errors(offset: int, junk: bytes, length: int) -> None:
    image = (IMAGE[:offset] + junk + IMAGE[offset + len(junk) :])[:length]
    try:
        authenticode(image, "sha384")
    except WireError as error:
        assert error.structure == "PE"

from __future__ import annotations

import struct

import pytest

from pe_image import image, shim
from tdxstack.errors import WireError
from tdxstack.measure.shim import SHIM_LOCK, Shim
from tdxstack.wire.efi.signatures import CERT_X509, Signature, SignatureList


def read(data: bytes) -> Shim:
    found = Shim.from_bytes(data)
    assert found is not None
    return found


def test_a_certificate_gets_a_list_of_its_own() -> None:
    expected = SignatureList(CERT_X509, (Signature(SHIM_LOCK, b"\x30certificate"),)).to_bytes()
    assert read(shim()).mok_list() == expected


def test_lists_are_taken_as_they_are() -> None:
    lists = SignatureList(CERT_X509, (Signature(SHIM_LOCK, b"0000"),)).to_bytes()
    found = read(shim(vendor=lists, forbidden=b"forbidden"))
    assert found.mok_list() == lists
    assert found.mok_list_x() == b"forbidden"


def test_the_level_depends_on_secure_boot() -> None:
    found = read(shim(level=b"sbat,1,2025021800\nshim,4\n"))
    assert found.sbat_level(secure_boot=True).value == b"sbat,1,2025021800\nshim,4\n"
    assert found.sbat_level(secure_boot=False).value == b"sbat,1,2021030218\n"


def test_other_images_are_none() -> None:
    assert Shim.from_bytes(image((".text", b"x"))) is None


@pytest.mark.parametrize("table", [b"short", struct.pack("<IIII", 5, 0, 16, 16), struct.pack("<IIII", 0, 9, 16, 16)])
def test_damaged_tables(table: bytes) -> None:
    with pytest.raises(WireError):
        Shim.from_bytes(image((".vendor_cert", table)))

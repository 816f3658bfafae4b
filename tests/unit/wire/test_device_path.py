"""Device paths in words: of a boot on hardware, made up, and damaged."""

from __future__ import annotations

import struct
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.wire.efi.device_path import device_path_text
from tdxstack.wire.efi.variable import load_option, load_option_path

END = bytes.fromhex("7fff0400")
ROOT, PCI = bytes.fromhex("02010c00d041030a00000000"), bytes.fromhex("010106000003")


def node(kind: int, subtype: int, data: bytes = b"") -> bytes:
    return struct.pack("<BBH", kind, subtype, 4 + len(data)) + data


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (ROOT + PCI, "PciRoot(0x0)/Pci(0x3,0x0)"),
        (node(3, 11, bytes.fromhex("525400123456") + bytes(26) + b"\1"), "MAC(525400123456,0x1)"),
        (node(3, 23, struct.pack("<IQ", 1, 0x0102030405060708)), "NVMe(0x1,01-02-03-04-05-06-07-08)"),
        (node(3, 24, b"http://boot.example/x.efi"), "Uri(http://boot.example/x.efi)"),
        (
            node(4, 1, struct.pack("<IQQ", 1, 2048, 204800) + bytes(range(16)) + b"\2\2"),
            "HD(1,GPT,03020100-0504-0706-0809-0a0b0c0d0e0f,0x800,0x32000)",
        ),
        (
            node(4, 1, struct.pack("<IQQ", 2, 1, 2) + b"\x78\x56\x34\x12" + bytes(12) + b"\1\1"),
            "HD(2,MBR,0x12345678,0x1,0x2)",
        ),
        (node(4, 4, "\\EFI\\BOOT\\BOOTX64.EFI\0".encode("utf-16-le")), "\\EFI\\BOOT\\BOOTX64.EFI"),
        (node(4, 7, bytes(16)) + node(4, 6, bytes(16)), f"Fv({UUID(int=0)})/FvFile({UUID(int=0)})"),
        (node(2, 1, struct.pack("<II", 0x0501D041, 1)), "Acpi(0x0501d041,0x1)"),
        (node(9, 9, b"zz"), "Path(9,9,7a7a)"),
        (node(4, 1, b"\1"), "Path(4,1,01)"),
        (node(4, 4, b"odd"), "Path(4,4,6f6464)"),
    ],
)  # fmt: skip
def test_nodes_in_words(data: bytes, text: str) -> None:
    assert device_path_text(data + END) == text
    assert load_option_path(load_option("Entry", data)) == text


@pytest.mark.parametrize("data", [ROOT[:-1], ROOT, ROOT + b"\1\1\3\0", ROOT + b"\1\1\xff\xff"])
def test_a_path_that_does_not_end_says_so(data: bytes) -> None:
    assert device_path_text(data).endswith("...")


def test_no_path() -> None:
    assert device_path_text(END) == ""
    assert load_option_path(b"") == ""
    assert load_option_path(b"\1\0\0\0\xff\xff") == "..."


@given(st.binary(max_size=200))
def test_any_bytes_are_told(data: bytes) -> None:
    assert isinstance(device_path_text(data), str)
    assert isinstance(load_option_path(data), str)

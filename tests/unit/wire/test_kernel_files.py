"""A kernel's symbols, the ELF file that takes them, the payload of a bzImage."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import WireError
from tdxstack.wire import elf, kallsyms
from tdxstack.wire.bzimage import Compression, KernelPayload
from tdxstack.wire.elf import Elf, Symbol

BASE = 0xFFFFFFFF81000000
COUNT = 2100


def _pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def _kallsyms(*, old: bool, percpu: bool) -> tuple[bytes, list[Symbol]]:
    """The arrays as scripts/kallsyms.c writes them, with one token for each letter."""
    wanted = [Symbol(f"symbol_{number}", "Tt"[number % 2], BASE + 16 * number) for number in range(COUNT)]
    wanted[5] = Symbol("a_long_name" * 20, "D", wanted[5].address)
    names, markers = bytearray(), []
    for number, symbol in enumerate(wanted):
        if number % 256 == 0:
            markers.append(len(names))
        text = (symbol.kind + symbol.name).encode()
        size = len(text)
        names += (bytes([size]) if size < 128 else bytes([size & 0x7F | 0x80, size >> 7])) + text
    tokens = [bytes([code]) if 33 <= code < 127 else b"" for code in range(256)]
    table = b"".join(token + b"\0" for token in tokens)
    index, at = [], 0
    for token in tokens:
        index.append(at)
        at += len(token) + 1
    offsets = [BASE - 1 - symbol.address if percpu else symbol.address - BASE for symbol in wanted]
    if percpu:
        wanted[0] = Symbol(wanted[0].name, wanted[0].kind, 64)
        offsets[0] = 64
    where = _pad(struct.pack(f"<{COUNT}i", *offsets)) + struct.pack("<Q", BASE)
    what = (
        _pad(struct.pack("<I", COUNT))
        + _pad(bytes(names))
        + _pad(struct.pack(f"<{len(markers)}I", *markers))
        + _pad(table)
        + _pad(struct.pack("<256H", *index))
    )
    return b"\x90" * 4096 + (where + what if old else what + where) + b"\xcc" * 64, wanted


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("percpu", [True, False])
def test_kallsyms(*, old: bool, percpu: bool) -> None:
    image, wanted = _kallsyms(old=old, percpu=percpu)
    assert list(kallsyms.symbols(image)) == wanted


def test_no_kallsyms() -> None:
    with pytest.raises(WireError, match="CONFIG_KALLSYMS"):
        kallsyms.symbols(bytes(4096))
    image, _ = _kallsyms(old=False, percpu=False)
    with pytest.raises(WireError, match="relative_base"):
        kallsyms.symbols(image.replace(struct.pack("<Q", BASE), bytes(8)))


def _elf(text: bytes) -> bytes:
    names = b"\0.text\0.shstrtab\0"
    body = text + names
    start = 64 + 56
    header = elf._HEADER.pack(
        elf.MAGIC.ljust(16, b"\0"), 2, 62, 1, BASE, 64, start + len(body), 0, 64, 56, 1, 64, 3, 2
    )
    segment = elf._SEGMENT.pack(elf.PT_LOAD, 5, start, BASE, 0x1000000, len(text), len(text), 4096)
    sections = (
        elf._SECTION.pack(*([0] * 10))
        + elf._SECTION.pack(1, 1, elf.SHF_ALLOC, BASE, start, len(text), 0, 0, 16, 0)
        + elf._SECTION.pack(7, elf.SHT_STRTAB, 0, 0, start + len(text), len(names), 0, 0, 1, 0)
    )
    return header + segment + body + sections


def test_symbols_in_an_elf_file() -> None:
    data = _elf(b"\xc3" * 64)
    symbols = [Symbol("start_kernel", "T", BASE + 8), Symbol("percpu", "D", 16)]
    whole = elf.with_symbols(data, symbols)
    parsed = Elf.from_bytes(whole)
    assert [section.name for section in parsed.sections] == [
        "",
        ".text",
        ".shstrtab",
        ".symtab",
        ".strtab",
        ".shstrtab",
    ]
    assert parsed.segments == Elf.from_bytes(data).segments
    table, strings = parsed.section(".symtab"), parsed.section(".strtab")
    assert table is not None
    assert strings is not None
    rows = [elf._SYMBOL.unpack_from(whole, at) for at in range(table.offset, table.offset + table.size, 24)]
    names = [whole[strings.offset + row[0] :].partition(b"\0")[0].decode() for row in rows]
    assert names == ["", "start_kernel", "percpu"]
    assert [row[3] for row in rows] == [0, 1, elf.SHN_ABS]
    assert [row[4] for row in rows] == [0, BASE + 8, 16]
    with pytest.raises(WireError, match="ELF"):
        Elf.from_bytes(b"MZ" + bytes(100))


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_no_elf_file(data: bytes) -> None:
    with contextlib.suppress(WireError):
        Elf.from_bytes(elf.MAGIC + data)


def _bzimage(payload: bytes, *, protocol: int = 0x20F) -> bytes:
    head = bytearray(1024)
    head[0x1F1] = 1
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x206, protocol)
    struct.pack_into("<II", head, 0x248, 16, len(payload))
    struct.pack_into("<Q", head, 0x258, 0x1000000)
    return bytes(head) + bytes(16) + payload


def test_payload() -> None:
    found = KernelPayload.from_bytes(_bzimage(b"\x28\xb5\x2f\xfdabcdSIZE"))
    assert (found.compression, found.data, found.pref_address) == (
        Compression.ZSTD,
        b"\x28\xb5\x2f\xfdabcd",
        0x1000000,
    )
    assert KernelPayload.from_bytes(_bzimage(b"\x1f\x8babcd")).data == b"\x1f\x8babcd"
    for kernel, message in (
        (_bzimage(b"????abcd"), "no known compression"),
        (_bzimage(b"\x1f\x8babcd", protocol=0x207), "payload_offset"),
        (_bzimage(b"\x1f\x8babcd")[:-2], "do not fit"),
        (bytes(4096), "HdrS"),
    ):
        with pytest.raises(WireError, match=message):
            KernelPayload.from_bytes(kernel)

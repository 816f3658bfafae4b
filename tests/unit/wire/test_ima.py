from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import WireError
from tdxstack.wire.ima import read_ascii, read_binary, read_list

BOOT = Path(__file__).parents[2] / "vectors" / "measure" / "direct-boot"
FILE = hashlib.sha384(b"file").digest()


def field(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def template_data(name: str, *more: bytes) -> bytes:
    return field(b"sha384:\0" + FILE) + field(name.encode() + b"\0") + b"".join(field(one) for one in more)


def ascii_line(template: str, data: bytes, rest: str, *, index: int = 10, size: str = "sha1") -> bytes:
    return f"{index} {hashlib.new(size, data).hexdigest()} {template} sha384:{FILE.hex()} {rest}\n".encode()


def test_a_real_list() -> None:
    (entry,) = read_list((BOOT / "ima.bin").read_bytes())
    assert (entry.index, entry.template, entry.name) == (10, "ima-sig", "boot_aggregate")
    assert entry.digest_holds
    assert entry.file_digest.startswith("sha256:e0857e2d")


def test_the_real_lists_ascii_form_is_the_same() -> None:
    (binary,) = read_list((BOOT / "ima.bin").read_bytes())
    line = f"10 {binary.template_digest.hex()} ima-sig {binary.file_digest} boot_aggregate \n"
    assert read_list(line.encode()) == (binary,)


@pytest.mark.parametrize("size", ["sha1", "sha256", "sha384"])
@pytest.mark.parametrize(
    ("template", "name", "more", "rest"),
    [
        ("ima-ng", "/usr/bin/a file", (), "/usr/bin/a file"),
        ("ima-sig", "/usr/bin/a file", (b"\3\2",), "/usr/bin/a file 0302"),
        ("ima-sig", "/bin/x", (b"",), "/bin/x "),
        ("ima-buf", "kernel_info", (b"6.12",), "kernel_info 362e3132"),
        ("ima-modsig", "/m.ko", (b"", b"sha256:\0" + bytes(32), b"\x30"), f"/m.ko  sha256:{bytes(32).hex()} 30"),
        ("ima-modsig", "/m.ko", (b"\3", b"", b""), "/m.ko 03  "),
        ("d-ng|n-ng", "/bin/x", (), "/bin/x"),
        ("d-ng|n-ng|sig|buf", "/bin/x", (b"\3", b"\4"), "/bin/x 03 04"),
        (
            "evm-sig",
            "/bin/x",
            (b"\5", b"security.ima\0", bytes([9, 0, 0, 0]), b"\1\2", bytes([232, 3, 0, 0]), bytes(4), b"\xed\x81"),
            "/bin/x 05 security.ima 09000000 0102 1000 0 33261",
        ),
        (
            "d-ng|n-ng|evmsig|xattrnames|xattrlengths|xattrvalues|iuid|igid|imode",
            "/bin/x",
            (b"", b"\0", b"", b"", bytes(4), bytes(4), b"\xff\xff"),
            "/bin/x     0 0 65535",
        ),
    ],
)
def test_template_digests_follow_from_the_fields(
    size: str, template: str, name: str, more: tuple[bytes, ...], rest: str
) -> None:
    data = template_data(name, *more)
    (entry,) = read_ascii(ascii_line(template, data, rest, size=size))
    assert entry.digest_holds
    assert entry.template_data == data
    assert entry.extended() == hashlib.sha384(data).digest()
    raw = bytes.fromhex(hashlib.new(size, data).hexdigest())
    binary = struct.pack("<I", 10) + raw + field(template.encode()) + field(data)
    assert read_list(binary) == (entry,)


@pytest.mark.parametrize("rest", ["/usr/bin/other 0302", "/usr/bin/a file 0303"])
def test_an_altered_entry_is_found(rest: str) -> None:
    (entry,) = read_ascii(ascii_line("ima-sig", template_data("/usr/bin/a file", b"\3\2"), rest))
    assert not entry.digest_holds


def test_a_violation_extends_ones() -> None:
    (entry,) = read_ascii(f"10 {'0' * 40} ima-ng sha1:{'0' * 40} /var/log/x\n".encode())
    assert entry.violation
    assert entry.digest_holds
    assert entry.extended() == b"\xff" * 48


NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12)


@given(st.lists(st.tuples(NAMES, st.binary(max_size=20)), max_size=5), st.sampled_from([20, 32, 48]))
def test_binary_lists(entries: list[tuple[str, bytes]], size: int) -> None:
    algorithm = {20: "sha1", 32: "sha256", 48: "sha384"}[size]
    raw = b""
    for name, signature in entries:
        data = template_data(name, signature)
        raw += struct.pack("<I", 10) + hashlib.new(algorithm, data).digest() + field(b"ima-sig") + field(data)
    read = read_binary(raw) if raw else ()
    assert [entry.name for entry in read] == [name for name, _ in entries]
    assert all(entry.digest_holds for entry in read)


@pytest.mark.parametrize(
    "data",
    [
        b"what",
        b"10 zz ima-ng x y\n",
        b"10 " + b"a" * 40 + b" ima-xyz d n\n",
        b"10 " + b"a" * 41 + b" ima-ng sha1: n\n",
        bytes(100),
    ],
)
def test_what_is_no_list(data: bytes) -> None:
    with pytest.raises(WireError):
        read_list(data)


@given(st.integers(0, 105), st.binary(min_size=1, max_size=8), st.integers(0, 120))
def test_damage_raises_nothing_but_wire_errors(offset: int, junk: bytes, length: int) -> None:
    data = (BOOT / "ima.bin").read_bytes()
    try:
        read_list((data[:offset] + junk + data[offset + len(junk) :])[:length])
    except WireError as error:
        assert error.structure == "IMA list"


@given(st.binary(max_size=200))
def test_ascii_junk_raises_nothing_but_wire_errors(junk: bytes) -> None:
    try:
        read_ascii(b"10 " + b"a" * 40 + b" ima-sig " + junk)
    except WireError as error:
        assert error.structure == "IMA list"


@pytest.mark.parametrize(
    "line",
    [
        f"10 {'0' * 40} d-ng|sig sha384:{FILE.hex()} 00",
        f"10 {'0' * 40} n-ng|d-ng /bin/x sha384:{FILE.hex()}",
        f"10 {'0' * 40} d-ng|n-ng|other sha384:{FILE.hex()} /bin/x 00",
        f"10 {'0' * 40} evm-sig sha384:{FILE.hex()} /bin/x     4294967296 0 0",
        f"10 {'0' * 40} evm-sig sha384:{FILE.hex()} /bin/x     0 0 x",
    ],
)
def test_templates_and_numbers_that_are_none(line: str) -> None:
    with pytest.raises(WireError):
        read_list(line.encode())

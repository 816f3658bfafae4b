"""Messages of the FUSE protocol against bytes written down by hand from linux/fuse.h."""

from __future__ import annotations

import errno
import os
import struct
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import WireError
from tdxstack.platform.software.guest import fuse
from tdxstack.platform.software.guest.fuse import Attributes, Opcode, Request

#: A LOOKUP of "entry" in the root, as Linux 6.12 sends it: header of 40 bytes, name, NUL.
LOOKUP = (
    bytes.fromhex("2e00000001000000020000000000000001000000000000000000000000000000fd0100000000000065") + b"ntry\0"
)


def test_lookup_as_the_kernel_sends_it() -> None:
    request = Request.from_bytes(LOOKUP)
    assert (request.opcode, request.unique, request.node, request.pid) == (Opcode.LOOKUP, 2, fuse.ROOT, 509)
    assert request.names() == ["entry"]
    assert request.to_bytes() == LOOKUP


@given(
    st.builds(
        Request,
        opcode=st.integers(0, 2**32 - 1),
        unique=st.integers(0, 2**64 - 1),
        node=st.integers(0, 2**64 - 1),
        body=st.binary(max_size=200),
        uid=st.integers(0, 2**32 - 1),
        gid=st.integers(0, 2**32 - 1),
        pid=st.integers(0, 2**32 - 1),
    )
)
def test_requests_round_trip(request: Request) -> None:
    assert Request.from_bytes(request.to_bytes()) == request


@given(st.integers(0, 2**64 - 1), st.binary(max_size=100))
def test_answers_round_trip(unique: int, body: bytes) -> None:
    assert fuse.parse_answer(fuse.answer(unique, body)) == (0, unique, body)
    assert fuse.parse_answer(fuse.refusal(unique, errno.EBUSY)) == (errno.EBUSY, unique, b"")


@pytest.mark.parametrize("data", [b"", LOOKUP[:39], LOOKUP[:-1], LOOKUP + b"\0"])
def test_what_is_no_request_is_refused(data: bytes) -> None:
    with pytest.raises(WireError, match="fuse_in_header"):
        Request.from_bytes(data)


@pytest.mark.parametrize("data", [b"", fuse.answer(1, b"abc")[:-1]])
def test_what_is_no_answer_is_refused(data: bytes) -> None:
    with pytest.raises(WireError, match="fuse_out_header"):
        fuse.parse_answer(data)


def test_refusal_carries_a_negative_errno() -> None:
    assert fuse.refusal(7, errno.EINVAL) == struct.pack("<IiQ", 16, -22, 7)


def test_sizes_are_those_of_the_header_file() -> None:
    attributes = Attributes(5, 0o100444, 48)
    assert len(attributes.to_bytes()) == 88
    assert len(fuse.entry_body(attributes)) == 128
    assert len(fuse.attributes_body(attributes)) == 104
    assert len(fuse.init_body((7, 41))) == 64
    assert len(fuse.open_body(1)) == 16
    assert len(fuse.statfs_body()) == 80


def test_attributes_stand_where_the_kernel_reads_them() -> None:
    data = Attributes(inode=5, mode=0o100640, size=48, uid=6, gid=7, links=2, time=9).to_bytes()
    assert struct.unpack_from("<QQ", data) == (5, 48)
    assert struct.unpack_from("<QQQ", data, 24) == (9, 9, 9)
    assert struct.unpack_from("<IIII", data, 60) == (0o100640, 2, 6, 7)


@pytest.mark.parametrize(("kernel", "spoken"), [((7, 41), (7, 31)), ((7, 28), (7, 28)), ((8, 1), (7, 31))])
def test_the_smaller_minor_version_is_spoken(kernel: tuple[int, int], spoken: tuple[int, int]) -> None:
    assert struct.unpack_from("<II", fuse.init_body(kernel)) == spoken


def test_directory_entries_are_padded_and_can_be_continued() -> None:
    entries = [(1, ".", 0o040755), (2, "provider", 0o100444), (3, "x", 0o100444)]
    whole = fuse.directory_body(entries, 0, 4096)
    assert len(whole) == 32 + 32 + 32
    inode, offset, length, kind = struct.unpack_from("<QQII", whole, 32)
    assert (inode, offset, length, kind, whole[56:64]) == (2, 2, 8, 8, b"provider")
    assert fuse.directory_body(entries, 0, 70) == whole[:64]
    assert fuse.directory_body(entries, 2, 4096) == whole[64:]
    assert fuse.directory_body(entries, 3, 4096) == b""


def test_a_name_that_is_too_long_is_refused() -> None:
    with pytest.raises(OSError, match=os.strerror(errno.ENAMETOOLONG)):
        Request(Opcode.LOOKUP, 1, 1, b"x" * 256 + b"\0").names()


def test_respond_turns_errors_into_refusals() -> None:
    def refuse(request: Request) -> bytes:
        raise OSError(errno.EPERM, "no")

    def short(request: Request) -> bytes:
        request.write_data()
        return b""

    request = Request(Opcode.WRITE, 3, 1, b"")
    assert fuse.parse_answer(fuse.respond(request, refuse) or b"") == (errno.EPERM, 3, b"")
    assert fuse.parse_answer(fuse.respond(request, short) or b"") == (errno.EINVAL, 3, b"")


@pytest.mark.parametrize("opcode", [Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT])
def test_some_requests_have_no_answer(opcode: Opcode) -> None:
    assert fuse.respond(Request(opcode, 3, 1, b""), lambda request: b"") is None


def test_serve_answers_until_the_end() -> None:
    import socket

    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server = threading.Thread(target=fuse.serve, args=(ours.fileno(), lambda request: request.body[::-1]))
    server.start()
    kernel.send(Request(Opcode.GETATTR, 11, 1, b"abc").to_bytes())
    assert fuse.parse_answer(kernel.recv(100)) == (0, 11, b"cba")
    kernel.close()
    server.join(60)
    assert not server.is_alive()
    ours.close()

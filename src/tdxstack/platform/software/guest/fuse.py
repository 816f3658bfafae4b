"""Messages between the kernel and a FUSE or CUSE server, and the loop that answers them.

Source: the kernel's user-space header ``linux/fuse.h`` (protocol 7.31) and Documentation/filesystems/fuse.
A request is ``u32 len | u32 opcode | u64 unique | u64 nodeid | u32 uid | u32 gid | u32 pid | u32 padding | body``;
an answer is ``u32 len | s32 error | u64 unique | body``, with error 0 or a negative errno. Integers are the
machine's own: little-endian, TDX being x86.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum

from tdxstack.errors import WireError

MAJOR_VERSION = 7
#: The newest minor version whose messages are known here; the kernel speaks the smaller of both.
MINOR_VERSION = 31
#: CUSE needs this minor version at least.
MINOR_VERSION_LEAST = 11

ROOT = 1
#: A request may not be larger than this: a page of data and its headers, with room to spare.
BUFFER_SIZE = 64 * 1024
MAX_WRITE = 4096
NAME_MAX = 255

_IN_HEADER = struct.Struct("<IIQQIIII")
_OUT_HEADER = struct.Struct("<IiQ")
_ATTR = struct.Struct("<6Q10I")
_ENTRY = struct.Struct("<4Q2I")
_ATTR_OUT = struct.Struct("<QII")
_DIRENT = struct.Struct("<QQII")
_INIT_IN = struct.Struct("<II")
_INIT_OUT = struct.Struct("<4I2H2I2H8I")
_OPEN_OUT = struct.Struct("<QII")
_STATFS = struct.Struct("<5Q4I24x")
_WRITE_OUT = struct.Struct("<II")
_OPEN_IN = struct.Struct("<II")
_READ_IN = struct.Struct("<QQI")
_WRITE_IN = struct.Struct("<QQIIQII")
_HANDLE_IN = struct.Struct("<Q")
_SETATTR_IN = struct.Struct("<II7Q8I")
_MKDIR_IN = struct.Struct("<II")

_ATOMIC_O_TRUNC = 1 << 3
FOPEN_DIRECT_IO = 1 << 0


class Opcode(IntEnum):
    """``enum fuse_opcode``, as far as requests are told apart here."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    BATCH_FORGET = 42
    RENAME2 = 45
    CUSE_INIT = 4096


#: Requests to which the kernel expects no answer.
SILENT = frozenset((Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT))


class SetAttr(IntEnum):
    """Bits of ``fuse_setattr_in.valid``."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3


@dataclass(frozen=True, slots=True)
class Request:
    """One message from the kernel. ``body`` is what follows the 40-byte header."""

    opcode: int
    unique: int
    node: int
    body: bytes
    uid: int = 0
    gid: int = 0
    pid: int = 0

    @classmethod
    def from_bytes(cls, data: bytes) -> Request:
        """Read what one read(2) of the device gave.

        Raises:
            WireError: cut short, or longer than it says.
        """
        if len(data) < _IN_HEADER.size:
            raise WireError("fuse_in_header", "len", 0, f"{len(data)} bytes, a header has {_IN_HEADER.size}")
        length, opcode, unique, node, uid, gid, pid, _ = _IN_HEADER.unpack_from(data)
        if length != len(data):
            raise WireError("fuse_in_header", "len", 0, f"says {length}, {len(data)} bytes were read")
        return cls(opcode, unique, node, data[_IN_HEADER.size :], uid, gid, pid)

    def to_bytes(self) -> bytes:
        """The message as the kernel would write it."""
        length = _IN_HEADER.size + len(self.body)
        head = (length, self.opcode, self.unique, self.node, self.uid, self.gid, self.pid, 0)
        return _IN_HEADER.pack(*head) + self.body

    def names(self, offset: int = 0) -> list[str]:
        """The NUL-terminated names that stand in the body from ``offset`` on.

        Raises:
            OSError: ENAMETOOLONG.
        """
        names = [os.fsdecode(name) for name in self.body[offset:].split(b"\0")[:-1]]
        if any(len(os.fsencode(name)) > NAME_MAX for name in names):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        return names

    def _unpack(self, layout: struct.Struct) -> tuple[int, ...]:
        if len(self.body) < layout.size:
            raise WireError(f"fuse request {self.opcode}", "body", 40, f"{len(self.body)} of {layout.size} bytes")
        return layout.unpack_from(self.body)

    def version(self) -> tuple[int, int]:
        """(major, minor) of the kernel, of an INIT."""
        major, minor = self._unpack(_INIT_IN)
        return major, minor

    def handle(self) -> int:
        """The file handle, of FLUSH and RELEASE."""
        return self._unpack(_HANDLE_IN)[0]

    def open_flags(self) -> int:
        """O_* flags, of an OPEN."""
        return self._unpack(_OPEN_IN)[0]

    def read_range(self) -> tuple[int, int, int]:
        """(handle, offset, size), of READ and READDIR."""
        handle, offset, size = self._unpack(_READ_IN)
        return handle, offset, size

    def write_data(self) -> tuple[int, int, bytes]:
        """(handle, offset, data), of a WRITE."""
        handle, offset, size, *_ = self._unpack(_WRITE_IN)
        data = self.body[_WRITE_IN.size :]
        if len(data) != size:
            raise WireError("fuse_write_in", "size", 56, f"says {size}, {len(data)} bytes follow")
        return handle, offset, data

    def attributes(self) -> tuple[int, int, int, int]:
        """(valid, mode, uid, gid), of a SETATTR."""
        fields = self._unpack(_SETATTR_IN)
        return fields[0], fields[12], fields[14], fields[15]

    def directory_name(self) -> str:
        """The name, of a MKDIR."""
        self._unpack(_MKDIR_IN)
        return self.names(_MKDIR_IN.size)[0]


@dataclass(frozen=True, slots=True)
class Attributes:
    """``struct fuse_attr``, times left out: what has no times on disk shows those of its making."""

    inode: int
    mode: int
    size: int = 0
    uid: int = 0
    gid: int = 0
    links: int = 1
    time: int = 0

    def to_bytes(self) -> bytes:
        times = (self.time,) * 3
        return _ATTR.pack(
            self.inode, self.size, 0, *times, 0, 0, 0, self.mode, self.links, self.uid, self.gid, 0, 4096, 0
        )


def answer(unique: int, body: bytes = b"") -> bytes:
    """The answer to a request that was carried out."""
    return _OUT_HEADER.pack(_OUT_HEADER.size + len(body), 0, unique) + body


def refusal(unique: int, number: int) -> bytes:
    """The answer that makes the caller's system call fail with errno ``number``."""
    return _OUT_HEADER.pack(_OUT_HEADER.size, -number, unique)


def parse_answer(data: bytes) -> tuple[int, int, bytes]:
    """(errno, unique, body) of an answer.

    Raises:
        WireError: cut short, or longer than it says.
    """
    if len(data) < _OUT_HEADER.size:
        raise WireError("fuse_out_header", "len", 0, f"{len(data)} bytes, a header has {_OUT_HEADER.size}")
    length, error, unique = _OUT_HEADER.unpack_from(data)
    if length != len(data):
        raise WireError("fuse_out_header", "len", 0, f"says {length}, {len(data)} bytes are there")
    return -error, unique, data[_OUT_HEADER.size :]


def init_body(kernel: tuple[int, int]) -> bytes:
    """``fuse_init_out``: what this server can do. A kernel of another major version asks again."""
    minor = min(kernel[1], MINOR_VERSION) if kernel[0] == MAJOR_VERSION else MINOR_VERSION
    return _INIT_OUT.pack(MAJOR_VERSION, minor, 0, _ATOMIC_O_TRUNC, 0, 0, MAX_WRITE, 1, 0, 0, *(0,) * 8)


def entry_body(attributes: Attributes) -> bytes:
    """``fuse_entry_out``: a name's node. Nothing may be cached: the server alone knows when it ends."""
    return _ENTRY.pack(attributes.inode, 0, 0, 0, 0, 0) + attributes.to_bytes()


def attributes_body(attributes: Attributes) -> bytes:
    """``fuse_attr_out``."""
    return _ATTR_OUT.pack(0, 0, 0) + attributes.to_bytes()


def open_body(handle: int, flags: int = 0) -> bytes:
    """``fuse_open_out``."""
    return _OPEN_OUT.pack(handle, flags, 0)


def write_body(size: int) -> bytes:
    """``fuse_write_out``."""
    return _WRITE_OUT.pack(size, 0)


def statfs_body() -> bytes:
    """``fuse_statfs_out`` of a file system that has no blocks."""
    return _STATFS.pack(0, 0, 0, 0, 0, 4096, NAME_MAX, 4096, 0)


def directory_body(entries: Iterable[tuple[int, str, int]], offset: int, size: int) -> bytes:
    """``fuse_dirent`` records of (inode, name, mode), from the ``offset``-th entry on, at most ``size`` bytes."""
    body = b""
    for index, (inode, name, mode) in enumerate(entries):
        if index < offset:
            continue
        encoded = os.fsencode(name)
        record = _DIRENT.pack(inode, index + 1, len(encoded), stat.S_IFMT(mode) >> 12) + encoded
        record += bytes(-len(record) % 8)
        if len(body) + len(record) > size:
            break
        body += record
    return body


#: Carries out a request; raises OSError for what the caller is to see.
Handler = Callable[[Request], bytes]


def respond(request: Request, handler: Handler) -> bytes | None:
    """The bytes that answer ``request``, or None where the kernel expects none."""
    try:
        body = handler(request)
    except OSError as error:
        reply = refusal(request.unique, error.errno or errno.EIO)
    except WireError:
        reply = refusal(request.unique, errno.EINVAL)
    else:
        reply = answer(request.unique, body)
    return None if request.opcode in SILENT else reply


def serve(descriptor: int, handler: Handler) -> None:
    """Answer requests until the file system is unmounted or the device's connection ends.

    Raises:
        OSError: the device refuses what no kernel should refuse.
    """
    while True:
        try:
            data = os.read(descriptor, BUFFER_SIZE)
        except OSError as error:
            if error.errno in (errno.ENODEV, errno.ECONNABORTED, errno.EBADF):
                return
            if error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                continue
            raise
        if not data:
            return
        reply = respond(Request.from_bytes(data), handler)
        if reply is not None:
            _write(descriptor, reply)


def _write(descriptor: int, reply: bytes) -> None:
    try:
        os.write(descriptor, reply)
    except OSError as error:
        # The caller was interrupted and waits no more (ENOENT), or the connection has ended.
        if error.errno not in (errno.ENOENT, errno.EINTR, errno.ENODEV):
            raise

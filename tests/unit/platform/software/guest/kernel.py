"""The kernel's side of a FUSE file system, as far as its requests go: system calls as a client makes them."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from tdxstack.platform.software.guest import fuse
from tdxstack.platform.software.guest.fuse import Opcode, Request


@dataclass
class Kernel:
    """Sends requests to ``handler`` and raises OSError for refusals."""

    handler: Callable[[Request], bytes]
    _unique: list[int] = field(default_factory=lambda: [0])

    def ask(self, opcode: int, node: int, body: bytes = b"") -> bytes:
        self._unique[0] += 2
        request = Request.from_bytes(Request(opcode, self._unique[0], node, body).to_bytes())
        reply = fuse.respond(request, self.handler)
        assert reply is not None
        error, unique, answer = fuse.parse_answer(reply)
        assert unique == self._unique[0]
        if error:
            raise OSError(error, os.strerror(error))
        return answer

    def lookup(self, path: str) -> tuple[int, int, int]:
        """(node, mode, size) of a path."""
        node, mode, size = fuse.ROOT, 0o040755, 0
        for name in filter(None, path.split("/")):
            answer = self.ask(Opcode.LOOKUP, node, name.encode() + b"\0")
            node = struct.unpack_from("<Q", answer)[0]
            size, mode = struct.unpack_from("<Q", answer, 48)[0], struct.unpack_from("<I", answer, 100)[0]
        return node, mode, size

    def mkdir(self, path: str) -> None:
        parent, _, name = path.rpartition("/")
        node = self.lookup(parent)[0]
        self.ask(Opcode.MKDIR, node, struct.pack("<II", 0o755, 0o022) + name.encode() + b"\0")

    def rmdir(self, path: str) -> None:
        parent, _, name = path.rpartition("/")
        self.ask(Opcode.RMDIR, self.lookup(parent)[0], name.encode() + b"\0")

    def open(self, path: str, flags: int) -> File:
        node = self.lookup(path)[0]
        answer = self.ask(Opcode.OPEN, node, struct.pack("<II", flags, 0))
        return File(self, node, struct.unpack_from("<Q", answer)[0])

    def names(self, path: str) -> list[str]:
        node = self.lookup(path)[0]
        self.ask(Opcode.OPENDIR, node, bytes(8))
        names, offset = [], 0
        while data := self.ask(Opcode.READDIR, node, struct.pack("<QQI", 0, offset, 100)):
            at = 0
            while at < len(data):
                _, offset, length, _ = struct.unpack_from("<QQII", data, at)
                names.append(data[at + 24 : at + 24 + length].decode())
                at += 24 + length + -length % 8
        return names

    def read(self, path: str) -> bytes:
        opened = self.open(path, os.O_RDONLY)
        data = opened.read(1 << 16)
        opened.close()
        return data

    def write(self, path: str, data: bytes) -> None:
        opened = self.open(path, os.O_WRONLY | os.O_TRUNC)
        opened.write(0, data)
        opened.close()


@dataclass
class File:
    """An open file."""

    kernel: Kernel
    node: int
    handle: int

    def read(self, size: int, offset: int = 0) -> bytes:
        return self.kernel.ask(Opcode.READ, self.node, struct.pack("<QQIIQII", self.handle, offset, size, 0, 0, 0, 0))

    def write(self, offset: int, data: bytes) -> int:
        head = struct.pack("<QQIIQII", self.handle, offset, len(data), 0, 0, 0, 0)
        size: int = struct.unpack_from("<I", self.kernel.ask(Opcode.WRITE, self.node, head + data))[0]
        return size

    def flush(self) -> None:
        """close(2) of one of several descriptors."""
        self.kernel.ask(Opcode.FLUSH, self.node, struct.pack("<QIIQ", self.handle, 0, 0, 0))

    def close(self) -> None:
        self.flush()
        self.kernel.ask(Opcode.RELEASE, self.node, struct.pack("<QIIQ", self.handle, 0, 0, 0))


class Refused:
    """``with Refused(errno.EINVAL): ...``: a system call must fail with this errno."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        assert isinstance(error, OSError), f"nothing was refused: {error!r}"
        assert error.errno == self._number, f"{errno.errorcode[error.errno or 0]}"
        return True

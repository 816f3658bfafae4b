"""QEMU's fw_cfg read from outside, over the qtest protocol, while the machine stands still.

Source: QEMU ``docs/specs/fw_cfg.rst`` (DMA interface) and ``system/qtest.c`` (text protocol: one command per line,
answers ``OK ...``).
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from types import TracebackType
from typing import Self

from tdxstack.errors import SystemFault

_DMA_PORT = 0x514
_SELECT, _READ = 0x08, 0x02
_DIRECTORY_ITEM = 0x0019
#: Guest memory that the reads go through; the machine will not run on. With SMM, some below 1 MiB is locked away.
_CONTROL, _BUFFER = 0x100000, 0x110000
_CHUNK = 0x40000
MAX_ITEM = 64 << 20
MAX_FILES = 4096
_ENTRY = struct.Struct(">IHH56s")


class FwCfgReader:
    """A connection to a machine's qtest socket; reads fw_cfg items by DMA."""

    def __init__(self, path: Path, timeout: float = 20.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise SystemFault(f"{path}: {error.strerror}") from error
        self._stream = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        self._socket.close()

    def directory(self) -> dict[str, tuple[int, int]]:
        """File name -> (item selector, size in bytes)."""
        (count,) = struct.unpack(">I", self.item(_DIRECTORY_ITEM, 4))
        if count > MAX_FILES:
            raise SystemFault(f"fw_cfg lists {count} files")
        data = self.item(_DIRECTORY_ITEM, 4 + count * _ENTRY.size)[4:]
        entries = (_ENTRY.unpack_from(data, number * _ENTRY.size) for number in range(count))
        return {name.rstrip(b"\0").decode("ascii", "replace"): (item, size) for size, item, _, name in entries}

    def item(self, selector: int, size: int) -> bytes:
        """``size`` bytes of one item.

        Raises:
            SystemFault: the item is too large or QEMU answers with an error.
        """
        if size > MAX_ITEM:
            raise SystemFault(f"fw_cfg item 0x{selector:x} claims {size} bytes")
        parts: list[bytes] = []
        done = 0
        while done < size or not parts:
            length = min(_CHUNK, size - done)
            control = (selector << 16 | _SELECT | _READ) if not parts else _READ
            parts.append(self._read(control, length))
            done += length
        return b"".join(parts)

    def _read(self, control: int, length: int) -> bytes:
        request = struct.pack(">IIQ", control, length, _BUFFER)
        self._command(f"write 0x{_CONTROL:x} 0x{len(request):x} 0x{request.hex()}")
        self._command(f"outl 0x{_DMA_PORT:x} 0x0")
        swapped = int.from_bytes(_CONTROL.to_bytes(4, "big"), "little")
        self._command(f"outl 0x{_DMA_PORT + 4:x} 0x{swapped:x}")
        status = self._command(f"read 0x{_CONTROL:x} 0x4")
        if status not in ("0x00000000", "0x0"):
            raise SystemFault(f"fw_cfg DMA failed: {status}")
        answer = self._command(f"read 0x{_BUFFER:x} 0x{length:x}") if length else "0x"
        return bytes.fromhex(answer[2:])

    def _command(self, text: str) -> str:
        try:
            self._socket.sendall(text.encode() + b"\n")
            while True:
                line = self._stream.readline().decode("ascii", "replace").strip()
                if not line.startswith("IRQ"):
                    break
        except OSError as error:
            raise SystemFault(f"the machine's qtest socket: {error}") from error
        if not line.startswith("OK"):
            raise SystemFault(f"qtest: {text.split(maxsplit=1)[0]}: {line or 'closed'}")
        return line[2:].strip()

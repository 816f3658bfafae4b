"""Fixed layouts of little-endian fields, with checks that ``struct`` does not make."""

from __future__ import annotations

import struct
from typing import Any

from tdxstack.errors import WireError


class Layout:
    """A fixed run of little-endian fields, by the names of the specification.

    ``struct`` pads and cuts byte strings without a word; a Layout raises :class:`WireError` instead.

    Args:
        structure: the structure's name, for errors.
        fields: field name to ``struct`` code (``H``, ``I``, ``Q``, ``48s`` ...), in order.
    """

    __slots__ = ("_lengths", "_struct", "names", "offsets", "size", "structure")

    def __init__(self, structure: str, **fields: str) -> None:
        self.structure = structure
        self.names = tuple(fields)
        self._struct = struct.Struct("<" + "".join(fields.values()))
        self._lengths = tuple(int(code[:-1]) if code.endswith("s") else None for code in fields.values())
        self.size = self._struct.size
        self.offsets: dict[str, int] = {}
        position = 0
        for name, code in fields.items():
            self.offsets[name] = position
            position += struct.calcsize("<" + code)

    def unpack(self, data: bytes, offset: int = 0) -> tuple[Any, ...]:
        """The fields at ``offset`` of ``data``, in order. Raises WireError if ``data`` ends before they do."""
        try:
            return self._struct.unpack_from(data, offset)
        except struct.error:
            have = max(0, len(data) - offset)
            at = next((name for name in reversed(self.names) if self.offsets[name] <= have), self.names[0])
            raise WireError(
                self.structure, at, offset + self.offsets[at], f"needs {self.size} bytes, {have} are left"
            ) from None

    def pack(self, *values: Any) -> bytes:
        """The bytes of ``values``. Raises WireError if a byte string has another length or a number does not fit."""
        for name, length, value in zip(self.names, self._lengths, values, strict=True):
            if length is not None and len(value) != length:
                raise WireError(self.structure, name, self.offsets[name], f"{len(value)} bytes where {length} belong")
        try:
            return self._struct.pack(*values)
        except struct.error as error:
            raise WireError(self.structure, self.names[0], 0, str(error)) from None

"""The variable store in a firmware file's configuration volume: UEFI variables at rest.

Source: edk2 ``MdeModulePkg/Include/Guid/VariableFormat.h`` (VARIABLE_STORE_HEADER, AUTHENTICATED_VARIABLE_HEADER) and
``MdePkg/Include/Guid/SystemNvDataGuid.h``. The store follows the volume's header; variables start on 4-byte
boundaries, and the free space behind the last is 0xFF.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from uuid import UUID

from tdxstack.errors import WireError

NV_DATA_VOLUME = UUID("fff12b8d-7696-4c8b-a985-2747075b4f50")
AUTHENTICATED_STORE = UUID("aaf32c78-947b-439a-a180-2e144ec37792")

_STORE = struct.Struct("<16sIBBHI")
_VARIABLE = struct.Struct("<HBBIQ16sIII16s")
_START = 0x55AA
_ADDED = 0x3F
_FORMATTED, _HEALTHY = 0x5A, 0xFE
MAX_VARIABLES = 4096


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable: identity, EFI_VARIABLE_* attributes, value; ``timestamp`` is an EFI_TIME (16 bytes)."""

    name: str
    guid: UUID
    value: bytes
    attributes: int = 7
    timestamp: bytes = bytes(16)

    def to_bytes(self) -> bytes:
        name = (self.name + "\0").encode("utf-16-le")
        head = _VARIABLE.pack(
            _START,
            _ADDED,
            0,
            self.attributes,
            0,
            self.timestamp,
            0,
            len(name),
            len(self.value),
            self.guid.bytes_le,
        )
        data = head + name + self.value
        return data + b"\xff" * (-len(data) % 4)


@dataclass(frozen=True, slots=True)
class VariableStore:
    """The store of a firmware file: where it is, how large, and the variables that count (deleted ones left out)."""

    offset: int
    size: int
    variables: tuple[Variable, ...]

    @classmethod
    def from_bytes(cls, firmware: bytes) -> VariableStore:
        """Find and read the store of a firmware file (single-file OVMF or split VARS).

        Raises:
            WireError: no authenticated variable store, or a damaged one.
        """
        offset = _find(firmware)
        _, size, form, state, _, _ = _STORE.unpack_from(firmware, offset)
        if form != _FORMATTED or state != _HEALTHY:
            raise WireError("VARIABLE_STORE_HEADER", "Format", offset + 20, f"0x{form:x}, state 0x{state:x}")
        if not _STORE.size <= size <= len(firmware) - offset:
            raise WireError("VARIABLE_STORE_HEADER", "Size", offset + 16, f"{size}")
        return cls(offset, size, _read_variables(firmware, offset + _STORE.size, offset + size))

    def get(self, name: str, guid: UUID) -> Variable | None:
        """One variable, or None."""
        return next((one for one in self.variables if one.name == name and one.guid == guid), None)

    def written(self, firmware: bytes, variables: tuple[Variable, ...]) -> bytes:
        """The firmware file with these variables in place of the store's.

        The same variables in the same order give the same bytes.

        Raises:
            WireError: they do not fit the store.
        """
        body = b"".join(variable.to_bytes() for variable in variables)
        room = self.size - _STORE.size
        if len(body) > room:
            raise WireError("VARIABLE_STORE_HEADER", "Size", self.offset, f"{len(body)} bytes do not fit {room}")
        start = self.offset + _STORE.size
        return firmware[:start] + body.ljust(room, b"\xff") + firmware[self.offset + self.size :]


def _find(firmware: bytes) -> int:
    position = -1
    while (position := firmware.find(NV_DATA_VOLUME.bytes_le, position + 1)) >= 0:
        start = position - 16
        if start < 0 or firmware[start + 40 : start + 44] != b"_FVH":
            continue
        offset = start + int.from_bytes(firmware[start + 48 : start + 50], "little")
        if firmware[offset : offset + 16] == AUTHENTICATED_STORE.bytes_le and offset + _STORE.size <= len(firmware):
            return offset
    raise WireError("VARIABLE_STORE_HEADER", "Signature", 0, "no authenticated variable store in this file")


def _read_variables(firmware: bytes, position: int, end: int) -> tuple[Variable, ...]:
    found: list[Variable] = []
    for _ in range(MAX_VARIABLES):
        if position + _VARIABLE.size > end or firmware[position : position + 2] == b"\xff\xff":
            return tuple(found)
        start, state, _, attributes, _, timestamp, _, name_size, size, guid = _VARIABLE.unpack_from(
            firmware, position
        )
        if start != _START:
            raise WireError("AUTHENTICATED_VARIABLE_HEADER", "StartId", position, f"0x{start:04x}")
        name_at = position + _VARIABLE.size
        if name_size % 2 or name_at + name_size + size > end:
            raise WireError("AUTHENTICATED_VARIABLE_HEADER", "DataSize", position + 40, f"{name_size}+{size} bytes")
        value_at = name_at + name_size
        if state == _ADDED:
            name = firmware[name_at:value_at].decode("utf-16-le", "replace").rstrip("\0")
            value = firmware[value_at : value_at + size]
            found.append(Variable(name, UUID(bytes_le=guid), value, attributes, timestamp))
        position = (value_at + size + 3) & ~3
    raise WireError("VARIABLE_STORE_HEADER", "variables", position, f"more than {MAX_VARIABLES}")

"""UEFI variables and boot options, in the forms in which firmware measures them.

Source: TCG PC Client Platform Firmware Profile 1.06, section 10.2.6 (UEFI_VARIABLE_DATA); UEFI 2.10, sections 3.1.3
(EFI_LOAD_OPTION) and 10.3 (device paths).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from uuid import UUID

from tdxstack.errors import WireError
from tdxstack.wire.efi.device_path import device_path_text

GLOBAL_VARIABLE = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
IMAGE_SECURITY_DATABASE = UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")

_VARIABLE_DATA = struct.Struct("<16sQQ")
_END_OF_PATH = bytes.fromhex("7fff0400")
MAX_NAME = 1024


@dataclass(frozen=True, slots=True)
class VariableData:
    """``UEFI_VARIABLE_DATA``: a variable's identity and value, as event data.

    ``name`` keeps unpaired surrogates (CHAR16 is UCS-2), so that what is read can be written back.
    """

    guid: UUID
    name: str
    value: bytes

    def to_bytes(self) -> bytes:
        name = self.name.encode("utf-16-le", "surrogatepass")
        return _VARIABLE_DATA.pack(self.guid.bytes_le, len(name) // 2, len(self.value)) + name + self.value

    @classmethod
    def from_bytes(cls, data: bytes) -> VariableData:
        """Read event data.

        Raises:
            WireError: the lengths do not add up to the data's.
        """
        if len(data) < _VARIABLE_DATA.size:
            raise WireError("UEFI_VARIABLE_DATA", "VariableName", 0, f"{len(data)} bytes")
        guid, characters, size = _VARIABLE_DATA.unpack_from(data)
        end = _VARIABLE_DATA.size + 2 * characters
        if characters > MAX_NAME or end + size != len(data):
            raise WireError(
                "UEFI_VARIABLE_DATA", "UnicodeNameLength", 16, f"{characters}+{size} in {len(data)} bytes"
            )
        name = data[_VARIABLE_DATA.size : end].decode("utf-16-le", "surrogatepass")
        return cls(UUID(bytes_le=guid), name, data[end:])


def load_option(description: str, path: bytes, attributes: int = 1, data: bytes = b"") -> bytes:
    """EFI_LOAD_OPTION: the value of a Boot#### variable. ``path`` is without its end node."""
    whole = path + _END_OF_PATH
    return struct.pack("<IH", attributes, len(whole)) + (description + "\0").encode("utf-16-le") + whole + data


def load_option_description(value: bytes) -> str:
    """The description in a Boot#### value, as far as it can be read."""
    text = value[6:].decode("utf-16-le", "replace")
    return text.partition("\0")[0][:200]


def load_option_path(value: bytes) -> str:
    """The device path in a Boot#### value, as text; empty where it has none."""
    if len(value) < 6:
        return ""
    (length,) = struct.unpack_from("<H", value, 4)
    start = _behind_description(value)
    return device_path_text(value[start : start + length])


def _behind_description(value: bytes) -> int:
    start = 6
    while value[start : start + 2] not in (b"\0\0", b""):
        start += 2
    return start + 2


def firmware_file_path(volume: UUID, file: UUID) -> bytes:
    """Device path of a file in a firmware volume, without the end node."""
    return struct.pack("<BBH", 4, 7, 20) + volume.bytes_le + struct.pack("<BBH", 4, 6, 20) + file.bytes_le


def load_option_file(value: bytes) -> str:
    """The file that a Boot#### value names by File Path nodes, with backslashes; empty where it names a device."""
    if len(value) < 6:
        return ""
    (length,) = struct.unpack_from("<H", value, 4)
    start = _behind_description(value)
    path = value[start : start + length]
    parts: list[str] = []
    position = 0
    while position + 4 <= len(path):
        kind, subtype, size = struct.unpack_from("<BBH", path, position)
        if size < 4 or kind == 0x7F:
            break
        if (kind, subtype) == (4, 4):
            parts.append(path[position + 4 : position + size].decode("utf-16-le", "replace").rstrip("\0"))
        position += size
    return "\\".join(part.strip("\\") for part in parts)

"""The kernel proper inside a bzImage: where its compressed ELF file lies, and how it is compressed.

Source: Linux ``Documentation/arch/x86/boot.rst`` (payload_offset, payload_length, pref_address; boot protocol 2.08).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum

from tdxstack.errors import WireError

SECTOR = 512
_MAGIC_AT, _MAGIC = 0x202, b"HdrS"
_PROTOCOL_WITH_PAYLOAD = 0x208
_PROTOCOL_WITH_PREFERENCE = 0x20A
#: The builder appends the uncompressed size to formats that do not carry it at their end.
SIZE_TRAILER = 4


class Compression(Enum):
    """How the payload is compressed, by its first bytes."""

    GZIP = b"\x1f\x8b"
    BZIP2 = b"BZh"
    XZ = b"\xfd7zXZ\0"
    LZMA = b"\x5d\x00\x00"
    LZ4 = b"\x02\x21\x4c\x18"
    ZSTD = b"\x28\xb5\x2f\xfd"
    NONE = b"\x7fELF"


@dataclass(frozen=True, slots=True)
class KernelPayload:
    """The payload. ``data`` is still compressed, without the trailer; ``pref_address`` is where it wants to run."""

    compression: Compression
    data: bytes
    pref_address: int

    @classmethod
    def from_bytes(cls, kernel: bytes) -> KernelPayload:
        """The payload of a bzImage.

        Raises:
            WireError: not a bzImage of boot protocol 2.08 or newer, or compressed in a way that is not known.
        """
        if len(kernel) < 0x268 or kernel[_MAGIC_AT : _MAGIC_AT + 4] != _MAGIC:
            raise WireError("Linux setup header", "header", _MAGIC_AT, "not a bzImage (no HdrS)")
        (protocol,) = struct.unpack_from("<H", kernel, 0x206)
        if protocol < _PROTOCOL_WITH_PAYLOAD:
            raise WireError("Linux setup header", "version", 0x206, f"{protocol:#x} has no payload_offset")
        offset, length = struct.unpack_from("<II", kernel, 0x248)
        start = ((kernel[0x1F1] or 4) + 1) * SECTOR + offset
        if start + length > len(kernel) or length <= SIZE_TRAILER:
            raise WireError(
                "Linux setup header", "payload_length", 0x24C, f"{length} bytes from {start:#x} do not fit"
            )
        payload = kernel[start : start + length]
        found = next((one for one in Compression if payload.startswith(one.value)), None)
        if found is None:
            raise WireError("kernel payload", "magic", start, f"{payload[:6].hex()} is no known compression")
        if found not in (Compression.NONE, Compression.GZIP):
            payload = payload[:-SIZE_TRAILER]
        (preferred,) = struct.unpack_from("<Q", kernel, 0x258) if protocol >= _PROTOCOL_WITH_PREFERENCE else (0,)
        return cls(found, payload, preferred)

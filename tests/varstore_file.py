"""Made-up firmware files with an authenticated variable store, for tests."""

from __future__ import annotations

import struct

from tdxstack.wire.efi.varstore import AUTHENTICATED_STORE, NV_DATA_VOLUME


def blank_store(size: int = 0x8000) -> bytes:
    """A volume of ``size`` bytes with an empty store."""
    header = bytearray(72)
    header[16:32] = NV_DATA_VOLUME.bytes_le
    struct.pack_into("<Q4sIH", header, 32, size, b"_FVH", 0, 72)
    store = struct.pack("<16sIBBHI", AUTHENTICATED_STORE.bytes_le, size - 72, 0x5A, 0xFE, 0, 0)
    return (bytes(header) + store).ljust(size, b"\xff")


def with_store(firmware: bytes) -> bytes:
    """A firmware file whose first bytes are an empty store."""
    store = blank_store()
    return store + firmware[len(store) :]

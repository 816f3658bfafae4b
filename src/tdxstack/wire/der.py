"""DER (ITU-T X.690): where the values lie. For structures that a library has parsed, or that are Intel's own."""

from __future__ import annotations

SEQUENCE, SET, OID, OCTET_STRING = 0x30, 0x31, 0x06, 0x04
INTEGER, ENUMERATED, BOOLEAN = 0x02, 0x0A, 0x01


def tlv(data: bytes, at: int) -> tuple[int, int, int]:
    """Tag, start and end of the value whose tag is at ``at``. Raises IndexError where the data ends early."""
    length = data[at + 1]
    start = at + 2
    if length & 0x80:
        size = length & 0x7F
        if not 1 <= size <= 3:
            raise IndexError(f"a length of {size} bytes at offset {at}")
        length = int.from_bytes(data[start : start + size], "big")
        start += size
    end = start + length
    if end > len(data):
        raise IndexError(f"{length} bytes at offset {at}, {len(data) - start} are left")
    return data[at], start, end

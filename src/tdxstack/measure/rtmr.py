"""The register arithmetic: ``RTMR = SHA-384(RTMR || digest)``, from 48 zero bytes.

Source: Intel TDX Module ABI, TDG.MR.RTMR.EXTEND; UEFI 2.10, section 38.4.1 for the indexes of a CC log.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

SIZE = 48
COUNT = 4
ZERO = bytes(SIZE)


def extend(register: bytes, digest: bytes) -> bytes:
    """One extend; both arguments and the result are 48 bytes."""
    return hashlib.sha384(register + digest).digest()


def fold(digests: Iterable[bytes], start: bytes = ZERO) -> bytes:
    """The register after extending ``start`` by each digest in turn."""
    sha384 = hashlib.sha384
    for digest in digests:
        start = sha384(start + digest).digest()
    return start


def rtmr_of_index(mr_index: int) -> int | None:
    """RTMR number of a CC log's register index: 1..4 are RTMR0..3; None for others."""
    return mr_index - 1 if 1 <= mr_index <= COUNT else None

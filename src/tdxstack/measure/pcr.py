"""The SHA-384 PCRs beside the RTMRs, and what Linux IMA measures of them.

Source: Linux ``security/integrity/ima/ima_crypto.c`` (``ima_calc_boot_aggregate``): with ``ima_hash=sha384``, the
digest of that bank's PCRs 0..9; ``ima_template_lib.c`` for the fields of the template ``ima-sig``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from tdxstack.measure.rtmr import SIZE, extend

_AGGREGATED = range(10)
BOOT_AGGREGATE = b"boot_aggregate\0"
_ALGORITHM = b"sha384:\0"


@dataclass(slots=True)
class PcrBank:
    """A SHA-384 bank; a PCR that was extended by something unknown is unknown for good."""

    values: dict[int, bytes | None] = field(default_factory=dict)

    def extend(self, pcr: int, digest: bytes | None) -> None:
        """Extend by a digest, or by None where it is unknown."""
        before = self.values.get(pcr, bytes(SIZE))
        self.values[pcr] = None if before is None or digest is None else extend(before, digest)

    def boot_aggregate(self) -> bytes | None:
        """SHA-384 of PCRs 0..9, or None if one of them is unknown."""
        total = hashlib.sha384()
        for pcr in _AGGREGATED:
            value = self.values.get(pcr, bytes(SIZE))
            if value is None:
                return None
            total.update(value)
        return total.digest()


def boot_aggregate_template(aggregate: bytes) -> bytes:
    """Template data of IMA's first entry, whose digest is extended: digest, name, and no signature."""
    fields = (_ALGORITHM + aggregate, BOOT_AGGREGATE, b"")
    return b"".join(len(item).to_bytes(4, "little") + item for item in fields)

"""The SHA-256 PCRs beside the RTMRs, and what Linux IMA measures of them.

Source: Linux ``security/integrity/ima/ima_crypto.c`` (``ima_calc_boot_aggregate``): the digest of PCRs 0..9,
or 0..7 for SHA-1; ``ima_template_lib.c`` for the template's fields.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from tdxstack.measure.prediction import ImaSettings

_SIZE = 32
_AGGREGATED = range(10)
BOOT_AGGREGATE = b"boot_aggregate\0"


@dataclass(slots=True)
class PcrBank:
    """A SHA-256 bank; a PCR that was extended by something unknown is unknown for good."""

    values: dict[int, bytes | None] = field(default_factory=dict)

    def extend(self, pcr: int, digest: bytes | None) -> None:
        """Extend by a digest, or by None where it is unknown."""
        before = self.values.get(pcr, bytes(_SIZE))
        known = before is not None and digest is not None
        self.values[pcr] = hashlib.sha256(before + digest).digest() if known else None  # type: ignore[operator]

    def boot_aggregate(self) -> bytes | None:
        """SHA-256 of PCRs 0..9, or None if one of them is unknown."""
        total = hashlib.sha256()
        for pcr in _AGGREGATED:
            value = self.values.get(pcr, bytes(_SIZE))
            if value is None:
                return None
            total.update(value)
        return total.digest()


def boot_aggregate_template(aggregate: bytes, ima: ImaSettings) -> bytes | None:
    """Template data of IMA's first entry, whose digest is extended; None for settings that are not modelled."""
    if ima.hash_algorithm != "sha256" or ima.template not in ("ima-ng", "ima-sig"):
        return None
    fields = [b"sha256:\0" + aggregate, BOOT_AGGREGATE]
    if ima.template == "ima-sig":
        fields.append(b"")
    return b"".join(len(item).to_bytes(4, "little") + item for item in fields)

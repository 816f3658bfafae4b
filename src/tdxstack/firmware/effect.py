"""What a changed firmware file does to the registers: the digests that differ, and MRTD, which does not."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from tdxstack.errors import WireError
from tdxstack.measure.firmware import inspect
from tdxstack.measure.launch import cfv_event
from tdxstack.measure.mrtd import mrtd
from tdxstack.measure.secure_boot import secure_boot_variables
from tdxstack.wire.tdvf import TdvfMetadata


@dataclass(frozen=True, slots=True)
class Effect:
    """``changed`` has (event of RTMR0, digest before, digest after); MRTD is None for a file that is no TDVF."""

    mrtd_before: bytes | None
    mrtd_after: bytes | None
    changed: tuple[tuple[str, bytes | None, bytes | None], ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """The effect in words."""
        if self.mrtd_before is None:
            return ("not a TDVF (no TDX metadata): no TD boots it as it is",)
        same = self.mrtd_before == self.mrtd_after
        lines = [
            f"MRTD unchanged: {self.mrtd_before.hex()}"
            if same
            else f"MRTD changes: {self.mrtd_before.hex()} -> {(self.mrtd_after or b'').hex()}"
        ]
        for name, _, after in self.changed:
            lines.append(f"RTMR0 changes: {name} is {after.hex() if after else 'absent'}")
        if not self.changed:
            lines.append("RTMR0 unchanged")
        return tuple(lines)


def effect(before: bytes, after: bytes) -> Effect:
    """Compare the measurements of two firmware files."""
    old, new = _events(before), _events(after)
    changed = tuple((name, old.get(name), digest) for name, digest in new.items() if old.get(name) != digest)
    return Effect(_mrtd(before), _mrtd(after), changed)


def _mrtd(firmware: bytes) -> bytes | None:
    try:
        return mrtd(firmware)
    except WireError:
        return None


def _events(firmware: bytes) -> dict[str, bytes | None]:
    found: dict[str, bytes | None] = {}
    try:
        event = cfv_event(firmware, TdvfMetadata.from_bytes(firmware))
        found["configuration volume"] = event.digest() if event else None
    except WireError:
        pass
    capable = inspect(firmware).secure_boot
    for variable, _ in secure_boot_variables(firmware, capable=capable):
        found[f"variable {variable.name}"] = hashlib.sha384(variable.to_bytes()).digest()
    return found

"""MRTD of a firmware file: the measurement of a TD's initial content.

Source: Intel TDX Module ABI, TDH.MEM.PAGE.ADD and TDH.MR.EXTEND: SHA-384 over 128-byte buffers (and, for each
extended 256-byte chunk, the chunk itself). The order of the two operations is the host's choice and shows in MRTD:

- single pass: each page is added and at once extended (upstream KVM, kernel 6.16 and newer);
- two passes: all pages of a section are added, then all are extended (Intel's 1.5 stack, Canonical's 24.04 PPA).

MRTD does not cover the configuration volume (CFV), hence no UEFI variable and no secure boot key; nor the TD's
attributes, XFAM, memory size or number of vCPUs.
"""

from __future__ import annotations

import hashlib
import struct
from enum import Enum

from tdxstack.wire.tdvf import PAGE, Section, SectionType, TdvfMetadata

CHUNK = 256
_ZEROS = bytes(CHUNK)
#: Memory whose pages are added in one go.
_BATCH = 64 << 20
_ADD = struct.Struct("<16sQ104x")


class MrtdOrder(Enum):
    """Order of TDH.MEM.PAGE.ADD and TDH.MR.EXTEND."""

    SINGLE_PASS = "single-pass"  # noqa: S105
    TWO_PASS = "two-pass"  # noqa: S105

    @property
    def stacks(self) -> str:
        """The host stacks known to use this order."""
        if self is MrtdOrder.SINGLE_PASS:
            return "upstream: kernel 6.16 and newer with QEMU 10.1 and newer"
        return "Intel's TDX 1.5 stack; Canonical's 24.04 PPA (kernel 6.8, QEMU 8.2)"


def mrtd(firmware: bytes, order: MrtdOrder = MrtdOrder.SINGLE_PASS, metadata: TdvfMetadata | None = None) -> bytes:
    """MRTD (48 bytes) of a firmware file.

    Raises:
        WireError: the file has no valid TDVF metadata.
    """
    digest = hashlib.sha384()
    for section in (metadata or TdvfMetadata.from_bytes(firmware)).sections:
        # PAGE.AUG sections are not added by TDH.MEM.PAGE.ADD in the specification; KVM acts on MR.EXTEND alone.
        if order is MrtdOrder.TWO_PASS or not section.measured:
            for start in range(section.gpa, section.gpa + section.memory_size, _BATCH):
                end = min(start + _BATCH, section.gpa + section.memory_size)
                digest.update(b"".join(_add(gpa) for gpa in range(start, end, PAGE)))
        if section.measured:
            _extend(digest, section, section.content(firmware), add=order is MrtdOrder.SINGLE_PASS)
    return digest.digest()


def configuration_volume(firmware: bytes, metadata: TdvfMetadata | None = None) -> bytes | None:
    """The configuration volume (CFV) as loaded, or None if the firmware has none."""
    for section in (metadata or TdvfMetadata.from_bytes(firmware)).of_type(SectionType.CFV):
        return section.content(firmware).ljust(section.memory_size, b"\0")
    return None


def _add(gpa: int) -> bytes:
    return _ADD.pack(b"MEM.PAGE.ADD", gpa)


def _extend(digest: hashlib._Hash, section: Section, content: bytes, *, add: bool) -> None:
    """Extend all pages of a section, zeros behind its content; each behind its TDH.MEM.PAGE.ADD if ``add``."""
    pack = _ADD.pack
    content = content.ljust(-(-len(content) // PAGE) * PAGE, b"\0")
    for page in range(0, section.memory_size, PAGE):
        parts: list[bytes] = [_add(section.gpa + page)] if add else []
        for chunk in range(page, page + PAGE, CHUNK):
            parts.append(pack(b"MR.EXTEND", section.gpa + chunk))
            parts.append(content[chunk : chunk + CHUNK] or _ZEROS)
        digest.update(b"".join(parts))

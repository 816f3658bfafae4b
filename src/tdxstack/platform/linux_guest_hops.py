"""Where on its way a quote was lost: the guest, the VMM, the host's Quote Generation Service, or the PCCS behind it.

A guest sees little of what goes on beyond it. What can be told is told here, once, from what the kernel, the shared
buffer of TDG.VP.VMCALL<GetQuote> (Intel GHCI 1.5, section 3.3) and the QGS's error codes (``qgs_msg_error_t``) say.
"""

from __future__ import annotations

import errno
from enum import StrEnum

from tdxstack.errors import SystemFault
from tdxstack.wire.qgs import QgsError


class Hop(StrEnum):
    """Who failed."""

    GUEST = "guest"
    VMM = "VMM"
    VMM_OR_QGS = "VMM or QGS"
    QGS = "QGS"
    QGS_OR_PCCS = "QGS or PCCS"


class QuoteFault(SystemFault):
    """No quote. ``hop`` says who failed, as does the message."""

    def __init__(self, hop: Hop, what: str, *, hint: str | None = None) -> None:
        super().__init__(f"no quote, failed at {hop}: {what}", hint=hint or _HINTS[hop])
        self.hop = hop


_HINTS = {
    Hop.GUEST: "in the guest: tdxctl guest check; dmesg | grep -i tdx",
    Hop.VMM: "on the host: QEMU's tdx-guest object needs quote-generation-socket; tdxctl td logs NAME",
    Hop.VMM_OR_QGS: "on the host: tdxctl td logs NAME, systemctl status qgsd, tdxctl qgs status",
    Hop.QGS: "on the host: systemctl status qgsd, tdxctl qgs status",
    Hop.QGS_OR_PCCS: "on the host: journalctl -u qgsd says what it lacks; most often PCK certificates: the PCCS that "
    "/etc/sgx_default_qcnl.conf names, tdxctl pccs status",
}

_CODES = {
    QgsError.UNEXPECTED: (Hop.QGS_OR_PCCS, "it could not make a quote"),
    QgsError.OUT_OF_MEMORY: (Hop.QGS, "out of memory"),
    QgsError.INVALID_PARAMETER: (Hop.QGS, "it does not take this report or key id"),
    QgsError.INVALID_VERSION: (Hop.QGS, "another version of the protocol"),
    QgsError.INVALID_TYPE: (Hop.QGS, "it does not know the request"),
    QgsError.INVALID_SIZE: (Hop.QGS, "the request has a wrong size"),
    QgsError.INVALID_CODE: (Hop.QGS, "the request has an error code"),
}


def qgs_fault(where: str, code: int) -> QuoteFault:
    """What an error code in a QGS's answer means."""
    hop, meaning = _CODES.get(QgsError(code), _UNKNOWN) if code in set(QgsError) else _UNKNOWN
    return QuoteFault(hop, f"{where}: error 0x{code:x}: {meaning}")


_UNKNOWN = (Hop.QGS_OR_PCCS, "a code of its quoting library")


def configfs_fault(attribute: str, error: OSError) -> QuoteFault:
    """What an error of configfs-tsm means: only ``outblob`` asks the host."""
    what = f"configfs-tsm: {attribute}: {error.strerror}"
    if attribute == "outblob" and error.errno == errno.ETIMEDOUT:
        return QuoteFault(Hop.VMM_OR_QGS, f"{what}: no quote came in time")
    if attribute == "outblob" and error.errno == errno.EIO:
        return QuoteFault(Hop.VMM_OR_QGS, f"{what}: the host's quoting service gave no quote")
    return QuoteFault(Hop.GUEST, what, hint="run it as root" if error.errno == errno.EACCES else None)


def buffer_fault(status: int, *, unavailable: int) -> QuoteFault:
    """What the status of the shared buffer means."""
    if status == unavailable:
        return QuoteFault(Hop.VMM_OR_QGS, "GetQuote ioctl: quoting service unavailable: the VMM reaches no QGS")
    return QuoteFault(Hop.QGS_OR_PCCS, f"GetQuote ioctl: status 0x{status:x}: the quoting service refused")

"""Which vsock CIDs the machines of this host have, asked of ``/dev/vhost-vsock`` (linux/vhost.h).

VHOST_VSOCK_SET_GUEST_CID on a descriptor of its own refuses a CID that a machine has with EADDRINUSE, whoever started
that machine; what was set is let go with the descriptor.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

DEVICE = Path("/dev/vhost-vsock")
#: _IOW(0xAF, 0x60, __u64)
VHOST_VSOCK_SET_GUEST_CID = 0x4008AF60


def cid_is_free(cid: int, device: Path | None = None) -> bool:
    """Whether no machine of this host has ``cid``; True where the kernel cannot be asked."""
    try:
        descriptor = os.open(device or DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        fcntl.ioctl(descriptor, VHOST_VSOCK_SET_GUEST_CID, struct.pack("=Q", cid))
    except OSError as error:
        return error.errno != errno.EADDRINUSE
    finally:
        os.close(descriptor)
    return True

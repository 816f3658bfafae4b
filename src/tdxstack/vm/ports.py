"""Ports of the loopback interface, tried by binding."""

from __future__ import annotations

import errno
import socket

HOST = "127.0.0.1"


def can_bind(port: int, protocol: str = "tcp") -> bool:
    """Whether a program could listen on ``port`` of 127.0.0.1 now."""
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as probe:
        if protocol == "tcp":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            if protocol == "tcp":
                probe.listen(1)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True

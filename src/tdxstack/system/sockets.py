"""Unix sockets of programs that were just started."""

from __future__ import annotations

from pathlib import Path

#: __SO_ACCEPTCON in the kernel's ``include/linux/net.h``: the socket listens.
_ACCEPTS = 1 << 16


def is_listening(path: Path, table: Path = Path("/proc/net/unix")) -> bool:
    """Whether a program listens at the socket ``path``, as it named it.

    The file alone does not tell: it is there from bind(2) on, and until listen(2) connections are refused.
    """
    wanted = str(path).encode()
    for line in table.read_bytes().splitlines()[1:]:
        fields = line.split(maxsplit=7)  # Num RefCount Protocol Flags Type St Inode Path
        if len(fields) == 8 and fields[7] == wanted and int(fields[3], 16) & _ACCEPTS:
            return True
    return False

"""The ACPI table loader script of QEMU's fw_cfg: which blobs the firmware loads, in order.

Source: QEMU ``hw/acpi/bios-linker-loader.c``. ``etc/table-loader`` is a list of 128-byte commands; ALLOCATE (1) names
a fw_cfg file, a u32 alignment and a zone.
"""

from __future__ import annotations

from tdxstack.errors import WireError

COMMAND_SIZE = 128
NAME_SIZE = 56
ALLOCATE = 1
MAX_COMMANDS = 4096


def allocated_files(loader: bytes) -> tuple[str, ...]:
    """Names of the fw_cfg files that the script's ALLOCATE commands load, in the script's order.

    Raises:
        WireError: the length is no multiple of a command's, or a name is not text.
    """
    if len(loader) % COMMAND_SIZE or len(loader) > COMMAND_SIZE * MAX_COMMANDS:
        raise WireError("etc/table-loader", "length", 0, f"{len(loader)} bytes")
    names: list[str] = []
    for offset in range(0, len(loader), COMMAND_SIZE):
        if int.from_bytes(loader[offset : offset + 4], "little") == ALLOCATE:
            raw = loader[offset + 4 : offset + 4 + NAME_SIZE].partition(b"\0")[0]
            try:
                names.append(raw.decode("ascii"))
            except UnicodeDecodeError:
                raise WireError("etc/table-loader", "file name", offset + 4, f"{raw!r}") from None
    return tuple(names)

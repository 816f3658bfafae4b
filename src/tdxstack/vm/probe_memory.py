"""The firmware's variables, read out of a stopped machine's memory.

OVMF started by ``-bios`` keeps its variables in memory, in the same form as in a firmware file (edk2
``OvmfPkg/EmuVariableFvbRuntimeDxe``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from tdxstack.errors import WireError
from tdxstack.wire.efi.variable import GLOBAL_VARIABLE
from tdxstack.wire.efi.varstore import NV_DATA_VOLUME, VariableStore

_ALIGNMENT = 4096
_GUID_AT = 16
_LENGTH_AT = 32
MAX_VOLUME = 4 << 20


def boot_options(memory: Path) -> tuple[tuple[str, bytes], ...]:
    """BootOrder and the Boot#### variables it lists, in its order; empty where memory holds no BootOrder.

    Args:
        memory: the machine's memory as a sparse file.
    """
    found = (options_of(volume) for volume in _volumes(memory))
    return next((options for options in found if options), ())


def options_of(volume: bytes) -> tuple[tuple[str, bytes], ...]:
    """As :func:`boot_options`, of a firmware file or a variable volume."""
    try:
        variables = VariableStore.from_bytes(volume).variables
    except WireError:
        return ()
    known = {one.name: one.value for one in variables if one.guid == GLOBAL_VARIABLE}
    order = known.get("BootOrder", b"")
    names = [f"Boot{int.from_bytes(order[at : at + 2], 'little'):04X}" for at in range(0, len(order), 2)]
    return (("BootOrder", order), *((name, known[name]) for name in names if name in known)) if order else ()


def _volumes(memory: Path) -> Iterator[bytes]:
    """What looks like a variable volume, in the parts of the memory that were ever written to."""
    mark = NV_DATA_VOLUME.bytes_le
    with memory.open("rb") as stream:
        for start, end in _written(stream.fileno()):
            data = os.pread(stream.fileno(), end - start, start)
            position = -1
            while (position := data.find(mark, position + 1)) >= 0:
                at = position - _GUID_AT
                if at < 0 or (start + at) % _ALIGNMENT:
                    continue
                length = int.from_bytes(data[at + _LENGTH_AT : at + _LENGTH_AT + 8], "little")
                if length <= MAX_VOLUME:
                    yield os.pread(stream.fileno(), length, start + at)


def _written(descriptor: int) -> Iterator[tuple[int, int]]:
    position = 0
    while True:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError:
            return
        position = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, position

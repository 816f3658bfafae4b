"""The disk that a TD boots from, as prediction reads it: partition table and files, without mounting anything."""

from __future__ import annotations

from dataclasses import dataclass, field

from tdxstack.errors import WireError
from tdxstack.wire.block import ReadAt
from tdxstack.wire.fat import FatVolume
from tdxstack.wire.gpt import Gpt

#: What firmware starts from a device that no boot option names a file on (UEFI 2.10, section 3.5.1.1).
REMOVABLE_PATH = "\\EFI\\BOOT\\BOOTX64.EFI"
#: Where OVMF without a flash device keeps its variables (edk2 ``OvmfPkg/Library/NvVarsFileLib``).
VARIABLES_FILE = "NvVars"


@dataclass(slots=True)
class BootDisk:
    """A disk behind a reader. Table and volumes are read when they are asked for, and kept."""

    read: ReadAt
    _gpt: Gpt | None = field(init=False, default=None)
    _volumes: dict[int, FatVolume | None] = field(init=False, default_factory=dict)

    @property
    def gpt(self) -> Gpt:
        """The partition table.

        Raises:
            WireError: there is none.
        """
        if self._gpt is None:
            self._gpt = Gpt.from_disk(self.read)
        return self._gpt

    @property
    def has_fat(self) -> bool:
        """Whether there is a FAT file system, in a partition of a GPT or on the bare disk."""
        try:
            return any(self.volume(partition.number) is not None for partition in self.gpt.partitions)
        except WireError:
            return _is_fat(self.read)

    def variables_file(self) -> bytes | None:
        """The file in which firmware without a variable store of its own keeps its variables, or None."""
        try:
            found = self.starting_with(VARIABLES_FILE)
        except WireError:
            return None
        return None if found is None else found[1]

    def volume(self, number: int) -> FatVolume | None:
        """The FAT file system of a partition, or None if it holds none."""
        if number not in self._volumes:
            found = None
            for partition in self.gpt.partitions:
                if partition.number == number:
                    try:
                        found = FatVolume(partition.reader(self.read))
                    except WireError:
                        found = None
            self._volumes[number] = found
        return self._volumes[number]

    def starting_with(self, path: str) -> tuple[int, bytes] | None:
        """The first partition with a file of that path, and the file: what firmware starts. None if there is none."""
        for partition in self.gpt.partitions:
            volume = self.volume(partition.number)
            content = None if volume is None else volume.file(path)
            if content is not None:
                return partition.number, content
        return None

    def file(self, partition: int, path: str) -> bytes | None:
        """A file of one partition, or None."""
        volume = self.volume(partition)
        return None if volume is None else volume.file(path)


def _is_fat(read: ReadAt) -> bool:
    try:
        FatVolume(read)
    except WireError:
        return False
    return True

from __future__ import annotations

import pytest

from tdxstack.vm.marker_disk import marker_disk
from tdxstack.vm.marker_kernel import marker_kernel
from tdxstack.wire.block import part_of, reader_of
from tdxstack.wire.fat import FatVolume

FIRST = 64 * 512


@pytest.mark.parametrize("variables", [None, b"", bytes(range(256)) * 100])
def test_it_holds_what_firmware_looks_for(variables: bytes | None) -> None:
    image = marker_disk(marker_kernel(), variables)
    assert image == marker_disk(marker_kernel(), variables)
    volume = FatVolume(part_of(reader_of(image), FIRST, len(image) - FIRST))
    assert volume.bits == 12
    assert volume.file("EFI/BOOT/BOOTX64.EFI") == marker_kernel()
    assert volume.file("NvVars") == variables
    assert [entry.name for entry in volume.listing("EFI") or ()] == ["BOOT"]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        marker_disk(bytes(2 << 20))

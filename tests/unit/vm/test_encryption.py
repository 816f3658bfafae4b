"""Looking for a kernel in memory that is there, hidden, or of something else."""

from __future__ import annotations

import random

from tdxstack.vm import encryption
from tdxstack.vm.encryption import CLEAR, ENCRYPTED, UNDECIDED, KernelText, look, ram_regions
from tdxstack.vm.record import Run, TdRecord
from tdxstack.vm.spec import TdSpec, VmType

MIB = 1 << 20
TEXT = random.Random(1).randbytes(2 * MIB)
PIECES = {at: TEXT[at : at + encryption.PIECE] for at in range(0, 512 * 4096, 4096)}


class Ram:
    def __init__(self, size: int, content: dict[int, bytes]) -> None:
        self.data = bytearray(size)
        for at, part in content.items():
            self.data[at : at + len(part)] = part

    def read(self, address: int, size: int) -> bytes:
        return bytes(self.data[address : address + size])


def test_seen_wherever_it_is() -> None:
    found = look(KernelText(PIECES, 16 * MIB), Ram(128 * MIB, {66 * MIB: TEXT}), 128 * MIB)
    assert (found.verdict, found.seen, found.compared) == (CLEAR, len(PIECES), len(PIECES))
    assert found.kernel_bytes == found.vmm_bytes
    assert 66 * MIB <= found.address < 68 * MIB


def test_patched_text_is_still_seen() -> None:
    patched = bytearray(TEXT)
    for at in range(0, 60 * 4096 * 5, 4096):
        patched[at] ^= 0xFF
    found = look(KernelText(PIECES, 16 * MIB), Ram(64 * MIB, {32 * MIB: bytes(patched)}), 64 * MIB)
    assert found.verdict == CLEAR
    assert found.seen == len(PIECES) - 300


def _judge(kind: VmType, dialect: str, *, alive: bool) -> str:
    found = look(KernelText(PIECES, 16 * MIB), Ram(64 * MIB, {}), 64 * MIB)
    assert (found.verdict, found.seen) == (UNDECIDED, 0)
    record = TdRecord(spec=TdSpec(name="demo", type=kind), run=Run(dialect=dialect))
    return encryption._judged(record, found, alive=alive).verdict


def test_only_a_living_td_on_hardware_is_called_encrypted() -> None:
    assert _judge(VmType.TD, "upstream", alive=True) == ENCRYPTED
    assert _judge(VmType.TD, "upstream", alive=False) == UNDECIDED
    assert _judge(VmType.TD, "software", alive=True) == UNDECIDED
    assert _judge(VmType.EFI, "software", alive=True) == UNDECIDED


def test_ram_regions() -> None:
    assert ram_regions(1 << 30) == [(0, 1 << 30)]
    assert ram_regions(0xB0000000) == [(0, 2 << 30), (4 << 30, (4 << 30) + 0x30000000)]
    assert ram_regions(8 << 30) == [(0, 2 << 30), (4 << 30, 10 << 30)]

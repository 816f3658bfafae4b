"""Whether a TD's memory is hidden from its host: the kernel's text, as its file has it, looked for in guest memory.

The white paper's section 9.3 compares some instructions by eye. Here a few hundred pieces of ``.text`` are compared
with what the VMM reads at the guest's physical addresses (QMP ``pmemsave``), at every place where a kernel may be:
with ``nokaslr`` too the kernel's boot stub chooses one. The kernel rewrites parts of its text while it boots, so that
not every piece is found in clear memory; in memory that the VMM cannot read, none is.

That nothing was found says "encrypted" only of a TD on hardware whose guest answers meanwhile. Of everything else it
says nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from tdxstack.errors import SystemFault, WireError
from tdxstack.vm.control import ControlClient
from tdxstack.vm.kernel_image import kernel_of, unpack
from tdxstack.vm.observation import observe
from tdxstack.vm.record import TdRecord
from tdxstack.vm.site import require_here
from tdxstack.vm.spec import VmType
from tdxstack.vm.state import State, require
from tdxstack.wire.elf import Elf

#: CONFIG_PHYSICAL_ALIGN of x86-64: the kernel starts at a multiple of it.
ALIGNMENT = 2 << 20
CHUNK = 64 << 20
PIECE, PIECES = 32, 512
#: This share of the pieces settles it; text that is not the kernel's holds none of them.
ENOUGH = 0.25
SHOWN = 16
READ_TIMEOUT = 120.0
FOUR_GIB = 4 << 30
#: Where RAM below 4 GiB ends in a q35 machine of QEMU: with much memory, and with little.
LOW_RAM, LOW_RAM_SMALL = 2 << 30, 0xB0000000

ENCRYPTED, CLEAR, UNDECIDED = "encrypted", "not encrypted", "undecided"


class Memory(Protocol):
    """Guest physical memory as the VMM sees it."""

    def read(self, address: int, size: int) -> bytes:
        """``size`` bytes from a guest physical address."""
        ...


@dataclass(frozen=True, slots=True)
class EncryptionCheck:
    """What came of it. ``seen`` of ``compared`` pieces of the text were found; ``address`` is where one of them is,
    or would be, with its bytes in the kernel's file and in what the VMM reads there."""

    verdict: str
    reason: str
    address: int
    compared: int
    seen: int
    scanned_bytes: int
    kernel_bytes: bytes
    vmm_bytes: bytes

    @property
    def encrypted(self) -> bool:
        return self.verdict == ENCRYPTED

    def to_mapping(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "encrypted": self.encrypted,
            "reason": self.reason,
            "address": f"{self.address:#x}",
            "pieces_compared": self.compared,
            "pieces_seen": self.seen,
            "scanned_bytes": self.scanned_bytes,
            "kernel_text": self.kernel_bytes.hex(),
            "vmm_sees": self.vmm_bytes.hex(),
        }


@dataclass(frozen=True, slots=True)
class KernelText:
    """Pieces of a kernel's text (offset -> bytes), and the physical address where it would like to be."""

    pieces: Mapping[int, bytes]
    preferred: int

    def seen_in(self, memory: bytes) -> list[int]:
        """The offsets whose piece stands there in ``memory``."""
        return [at for at, piece in self.pieces.items() if memory[at : at + PIECE] == piece]


def check_encryption(name: str, *, kernel: Path | None = None) -> EncryptionCheck:
    """Look for the TD's kernel in its memory from outside. The guest runs on.

    Args:
        kernel: the kernel file, where the TD boots one from its disk.

    Raises:
        StateError: the TD does not run.
        UsageError: the kernel is not known.
        SystemFault: not a kernel, or memory that QEMU does not give out.
    """
    record = observe(name)
    up = frozenset({State.RUNNING, State.PAUSED})
    require(name, "look into its memory", record.state, up)
    require_here(record.spec, "its memory is read through files")
    text = _kernel_text(kernel or kernel_of(record.spec))
    with ControlClient(name) as client:
        alive = bool(client.call("status").get("agent_ready"))
        found = look(text, _QmpMemory(client, record.place.run_dir), record.spec.memory)
    return _judged(record, found, alive=alive)


def look(text: KernelText, memory: Memory, size: int) -> EncryptionCheck:
    """Compare at every place of ``size`` bytes of RAM until the text is found: not encrypted, else undecided."""
    best: list[int] = []
    best_at, scanned, enough = text.preferred, 0, ENOUGH * len(text.pieces)
    for start, data in _chunks(memory, ram_regions(size)):
        scanned += len(data)
        for offset in range(0, len(data), ALIGNMENT):
            seen = text.seen_in(data[offset : offset + ALIGNMENT])
            if len(seen) > len(best):
                best, best_at = seen, start + offset
        if len(best) >= enough:
            break
    shown = best[len(best) // 2] if best else next(iter(text.pieces))
    return EncryptionCheck(
        verdict=CLEAR if len(best) >= enough else UNDECIDED,
        reason="",
        address=best_at + shown,
        compared=len(text.pieces),
        seen=len(best),
        scanned_bytes=scanned,
        kernel_bytes=text.pieces[shown][:SHOWN],
        vmm_bytes=memory.read(best_at + shown, SHOWN),
    )


def ram_regions(size: int) -> list[tuple[int, int]]:
    """Guest physical ranges of a q35 machine's RAM (QEMU, hw/i386/pc_q35.c)."""
    low = LOW_RAM if size >= LOW_RAM_SMALL else min(size, LOW_RAM_SMALL)
    high = size - low
    return [(0, low), *([(FOUR_GIB, FOUR_GIB + high)] if high > 0 else [])]


def text_of(image: bytes, preferred: int) -> KernelText:
    """The pieces of an unpacked kernel's text.

    Raises:
        WireError: it has no text.
    """
    elf = Elf.from_bytes(image)
    section = elf.section(".text")
    if section is None or section.size < PIECE * PIECES:
        raise WireError("kernel", ".text", 0, "no text of a kernel's size")
    head = image[section.offset : section.offset + min(section.size, ALIGNMENT)]
    step = (len(head) - PIECE) // PIECES
    pieces = {at: head[at : at + PIECE] for at in range(0, step * PIECES, step)}
    # Fill between functions is everywhere alike, and says nothing.
    telling = {at: piece for at, piece in pieces.items() if len(set(piece)) > PIECE // 4}
    physical = next((one.paddr for one in elf.segments if one.vaddr == section.addr), preferred)
    return KernelText(telling, physical or preferred)


def _kernel_text(kernel: Path) -> KernelText:
    try:
        image, preferred = unpack(kernel.read_bytes())
        return text_of(image, preferred)
    except (WireError, OSError) as error:
        raise SystemFault(f"{kernel}: {error}", hint="give the kernel that the TD boots: --kernel FILE") from error


def _chunks(memory: Memory, regions: list[tuple[int, int]]) -> Iterator[tuple[int, bytes]]:
    for start, end in regions:
        for at in range(start, end, CHUNK):
            yield at, memory.read(at, min(CHUNK, end - at))


def _judged(record: TdRecord, found: EncryptionCheck, *, alive: bool) -> EncryptionCheck:
    hardware = record.spec.type is VmType.TD and record.run.dialect != "software"
    if found.verdict == CLEAR:
        if record.spec.type is not VmType.TD:
            why = f"a machine of type {record.spec.type.value}: nothing hides its memory"
        elif not hardware:
            why = "the software platform stands in for the silicon and encrypts nothing"
        else:
            why = "the VMM reads this TD's memory: is it a debug TD, or no TD?"
        return replace(found, reason=why)
    if not alive:
        return replace(
            found, reason="not found, but the guest's agent has not reported: is there a kernel in memory?"
        )
    if not hardware:
        return replace(found, reason="not found, although nothing encrypts this memory: is that the kernel it boots?")
    why = "the guest runs, and its kernel's text is nowhere in what the VMM reads"
    return replace(found, verdict=ENCRYPTED, reason=why)


class _QmpMemory:
    """Memory through QEMU's monitor; each piece goes through a file in the TD's run directory."""

    def __init__(self, client: ControlClient, folder: Path) -> None:
        self._client = client
        self._file = folder / "memory-piece"

    def read(self, address: int, size: int) -> bytes:
        arguments = {"val": address, "size": size, "filename": str(self._file)}
        try:
            self._client.call("qmp", {"execute": "pmemsave", "arguments": arguments}, timeout=READ_TIMEOUT)
            return self._file.read_bytes()
        except OSError as error:
            raise SystemFault(f"cannot read {self._file}: {error.strerror}") from error
        finally:
            with contextlib.suppress(OSError):
                self._file.unlink()

"""Which accelerator works on this host: told by running a VM, since ``/dev/kvm`` may exist and not work.

The VM's firmware (:mod:`tdxstack.platform.probe_rom`) enters long mode, uses FPU and SSE, and then writes to QEMU's
debug-exit device: QEMU ends with a status of our choosing only if a vCPU has run all of it.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tdxstack.errors import PlatformMissing, ProcessTimeout, SystemFault
from tdxstack.platform import probe_rom
from tdxstack.system import files, paths, process

KVM_DEVICE = Path("/dev/kvm")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
QEMU = "qemu-system-x86_64"

#: KVM answers at once or not at all: where it gives up in the middle, QEMU stands still.
_PROBE_SECONDS = {"kvm": 5.0, "tcg": 30.0}


class Accelerator(StrEnum):
    """QEMU's name of the accelerator."""

    KVM = "kvm"
    TCG = "tcg"


@dataclass(frozen=True, slots=True)
class Acceleration:
    """What was found; ``reason`` says why, in words for a person."""

    accelerator: Accelerator
    reason: str


def probe(qemu: str = QEMU, *, use_cache: bool = True, device: Path = KVM_DEVICE) -> Acceleration:
    """KVM if a VM runs under it, else TCG if a VM runs under that.

    The answer is kept until the next boot, or until QEMU or the device's owner and mode change.

    Raises:
        ProgramMissing: there is no such QEMU.
        PlatformMissing: QEMU runs no VM at all.
    """
    key = _key(process.find(qemu), device)
    cache = paths.cache() / "accelerator.json"
    if use_cache and (found := _cached(cache, key)):
        return found
    found = _probe(qemu, device)
    body = {"key": key, "accelerator": str(found.accelerator), "reason": found.reason}
    files.write_cache(cache.parent, cache.name, json.dumps(body) + "\n")
    return found


def _probe(qemu: str, device: Path) -> Acceleration:
    if not device.exists():
        why = f"{device} is absent"
    else:
        fault = _fault(qemu, Accelerator.KVM)
        if fault is None:
            return Acceleration(Accelerator.KVM, "a VM ran under KVM")
        why = f"{device} does not work: {fault}"
    fault = _fault(qemu, Accelerator.TCG)
    if fault is not None:
        raise PlatformMissing(f"{qemu} runs no VM on this host: {fault}", hint="reinstall QEMU: make setup")
    return Acceleration(Accelerator.TCG, why)


def _fault(qemu: str, accelerator: Accelerator) -> str | None:
    """Run the little firmware; None if its code ran, else what QEMU said."""
    seconds = _PROBE_SECONDS[accelerator]
    with tempfile.NamedTemporaryFile(prefix="tdxstack-probe-", suffix=".rom") as file:
        file.write(probe_rom.rom())
        file.flush()
        argv = [qemu, "-accel", str(accelerator), "-machine", "pc", "-m", "16", "-nodefaults", "-display", "none"]
        argv += ["-no-reboot", "-bios", file.name]
        argv += ["-device", f"isa-debug-exit,iobase={probe_rom.EXIT_PORT:#x},iosize=1"]
        try:
            done = process.run(argv, timeout=seconds, check=False)
        except ProcessTimeout:
            return f"a VM did not get as far as long mode and its first FPU and SSE instructions within {seconds:g} s"
    if done.returncode == probe_rom.EXIT_STATUS:
        return None
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1].removeprefix(f"{qemu}: ") if lines else f"status {done.returncode}"


def _key(qemu: str, device: Path) -> list[object]:
    """What the answer depends on."""
    program = Path(qemu).stat()
    try:
        boot = BOOT_ID.read_text().strip()
    except OSError:
        boot = ""
    try:
        node = device.stat()
        access: list[int] = [node.st_mode, node.st_uid, node.st_gid, node.st_rdev, os.geteuid()]
    except OSError:
        access = []
    return [qemu, program.st_mtime_ns, program.st_size, boot, str(device), access]


def _cached(cache: Path, key: list[object]) -> Acceleration | None:
    try:
        body = json.loads(cache.read_bytes())
        if body["key"] == key:
            return Acceleration(Accelerator(body["accelerator"]), str(body["reason"]))
    except (OSError, ValueError, KeyError, TypeError, SystemFault):
        pass
    return None

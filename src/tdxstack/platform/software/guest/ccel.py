"""The CC event log of this boot, made from the TPM's, and put where a TD's kernel shows it.

Source: UEFI 2.10, section 38 (CC measurement), Intel TDX Virtual Firmware Design Guide 8.1 (PCR to register),
ACPI 6.5, 5.2.34 (CCEL). The firmware and the boot loader measured into the vTPM; the same events, SHA-384 only, with
register indices instead of PCRs and after the events that TDVF logs only inside a TD, are the log that a TD would
have kept.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tdxstack.errors import PlatformMissing
from tdxstack.platform.software.guest import mounts
from tdxstack.wire.ccel import CcelTable
from tdxstack.wire.tcg import Algorithm, EventLog, cc_log_of_tpm_log, read_events

TPM_LOG = Path("/sys/kernel/security/tpm0/binary_bios_measurements")
TABLES = Path("/sys/firmware/acpi/tables")
#: OVMF's log area has 64 KiB; a longer log gets as many times that as it needs.
AREA_SIZE = 64 * 1024
_SHA384_ONLY = ((Algorithm.SHA384, 48),)


def cc_log(tpm_log: bytes, cc_events: bytes) -> bytes:
    """The bytes of a log area.

    Args:
        tpm_log: ``binary_bios_measurements``.
        cc_events: TCG_PCR_EVENT2 records to put in front.

    Raises:
        PlatformMissing: the TPM's log has no SHA-384 digests.
        WireError: one of both is not what it should be.
    """
    log = EventLog.from_bytes(tpm_log)
    if not any(algorithm == Algorithm.SHA384 for algorithm, _ in log.header.algorithms):
        found = ", ".join(f"0x{algorithm:04x}" for algorithm, _ in log.header.algorithms)
        raise PlatformMissing(
            f"the TPM's event log has no SHA-384 digests (algorithms: {found}), so no CCEL can be made of it",
            hint="the vTPM needs an active sha384 bank: swtpm_setup --pcr-banks sha256,sha384",
        )
    first, _, fault = read_events(cc_events, _SHA384_ONLY)
    if fault is not None:
        raise fault
    converted = cc_log_of_tpm_log(log, first)
    used = len(converted.to_bytes())
    # At least one record's worth of 0xFF must end the log.
    area = -(-(used + 12) // AREA_SIZE) * AREA_SIZE
    return converted.padded(area).to_bytes()


def ccel_table(area: bytes) -> bytes:
    """The ACPI table that goes with a log area. The log is not in memory here, so its address is 0."""
    return CcelTable(log_area_minimum_length=len(area), log_area_start_address=0).to_bytes()


def read_tpm_log(path: Path = TPM_LOG) -> bytes:
    """The firmware's log as the TPM driver keeps it.

    Raises:
        PlatformMissing: there is none.
    """
    try:
        log = path.read_bytes()
    except OSError as error:
        raise PlatformMissing(
            f"no TPM event log at {path}: {error.strerror}",
            hint="the TD needs its vTPM, and a firmware that measures; in the guest: ls /sys/class/tpm",
        ) from error
    if not log:
        raise PlatformMissing(f"the TPM event log {path} is empty", hint="the firmware did not measure this boot")
    return log


def install(area: bytes, tables: Path = TABLES) -> None:
    """Put the table and the log among the ACPI tables: a read-only tmpfs over them, with copies of the others.

    Raises:
        SystemFault: there are no ACPI tables, or the kernel refused.
    """
    below = mounts.cover(tables)
    try:
        _copy(below, tables)
    finally:
        os.close(below)
    data = tables / "data"
    data.mkdir(exist_ok=True)
    _write(tables / "CCEL", ccel_table(area))
    _write(data / "CCEL", area)
    mounts.make_read_only(tables)


def _copy(source: int, target: Path) -> None:
    """Copy the tree behind a directory descriptor: a few small tables."""
    here = Path(f"/proc/self/fd/{source}")
    for directory, subdirectories, files in os.walk(here):
        there = target / Path(directory).relative_to(here)
        for name in subdirectories:
            (there / name).mkdir(exist_ok=True)
        for name in files:
            original = Path(directory) / name
            _write(there / name, original.read_bytes(), stat.S_IMODE(original.stat().st_mode))


def _write(path: Path, content: bytes, mode: int = 0o400) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)

"""Runs firmware with secure boot on plain QEMU until it has done what a test waits for; no guest system, no TPM."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SECONDS = 180
_ESCAPES = re.compile(rb"\x1b\[[0-9;=]*[A-Za-z]")
REFUSED = "Access Denied"


@dataclass(frozen=True)
class FirmwareRun:
    """What was on the console, and whether the machine switched itself off (the marker kernel ran)."""

    text: str
    off: bool

    @property
    def refused(self) -> int:
        """How many boot options the firmware refused for their signatures."""
        return self.text.count(REFUSED)


def run(firmware: Path, *, disks: Sequence[Path] = (), kernel: Path | None = None, until: str = "") -> FirmwareRun:
    """Start a machine with the disks in boot order; end it when it is off, or ``until`` is on the console."""
    flash = f"if=pflash,format=raw,unit=0,snapshot=on,file={firmware}"
    argv = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-machine", "q35,hpet=off,smm=on", "-cpu", "max"]
    argv += ["-m", "512M", "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio", "-drive", flash]
    argv += ["-global", "driver=cfi.pflash01,property=secure,value=on"]
    for number, disk in enumerate(disks):
        argv += ["-drive", f"file={disk},format=raw,if=none,id=d{number},snapshot=on"]
        argv += ["-device", f"virtio-blk-pci,drive=d{number},bootindex={number}"]
    argv += ["-kernel", str(kernel)] if kernel else []
    machine = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert machine.stdout is not None
    os.set_blocking(machine.stdout.fileno(), False)
    output, deadline = b"", time.monotonic() + SECONDS
    try:
        while time.monotonic() < deadline:
            ended = machine.poll() is not None
            output += machine.stdout.read() or b""
            text = _ESCAPES.sub(b"", output).decode(errors="replace")
            if ended or (until and until in text):
                return FirmwareRun(text, ended)
            time.sleep(0.1)
    finally:
        machine.kill()
        machine.wait()
    raise AssertionError(f"neither off nor {until!r} after {SECONDS} s: {output[-2000:]!r}")

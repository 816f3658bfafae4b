"""The argument list that libvirt started a TD's QEMU with: other slots and buses than ours, so other ACPI tables."""

from __future__ import annotations

from pathlib import Path

from tdxstack.errors import SystemFault
from tdxstack.platform.linux_processes import find_by_arguments
from tdxstack.vm.libvirt.domains import uuid_of


def arguments(name: str, proc: Path = Path("/proc")) -> list[str]:
    """The words of the running QEMU of this home's TD ``name``, the binary first (proc(5), cmdline).

    Raises:
        SystemFault: no such process can be seen.
    """
    pid = find_by_arguments("-uuid", uuid_of(name), proc)
    try:
        data = b"" if pid is None else (proc / str(pid) / "cmdline").read_bytes()
    except OSError:
        data = b""
    if not data:
        raise SystemFault(
            f"TD {name}: libvirt's QEMU is not among the processes seen here, so its ACPI tables cannot be predicted",
            hint="give the registers: tdxctl attest NAME --expect FILE",
        )
    return [word.decode(errors="surrogateescape") for word in data.rstrip(b"\0").split(b"\0")]

"""The tree of a host's checks and of a guest's."""

from __future__ import annotations

from tdxstack.preflight.checks import (
    attestation,
    capacity,
    confinement,
    cpu,
    firmware,
    guest,
    kernel,
    logs,
    memory,
    module,
    virtual_firmware,
    vmm,
)
from tdxstack.preflight.host import Host
from tdxstack.preflight.model import Check, Result, run

#: What a machine must be for any of it to make sense; where one of these fails it is not a TDX host.
HOST_ROOTS = frozenset({"cpu.vendor", "cpu.bare_metal", "cpu.tdx"})


def host_checks() -> tuple[Check, ...]:
    """The checks of a host, roots first. Silicon first, since all else hangs on it; programs are looked at anyway."""
    silicon = cpu.root(
        (memory.MEMORY, *firmware.CHECKS, kernel.KERNEL, module.MODULE, *attestation.CHECKS, *capacity.CHECKS)
    )
    return (silicon, *vmm.CHECKS, *virtual_firmware.CHECKS, *confinement.CHECKS, *logs.CHECKS)


def check_host(host: Host) -> tuple[Result, ...]:
    return tuple(run(check, host) for check in host_checks())


#: Where this fails the machine is no TD.
GUEST_ROOTS = frozenset({"guest.td"})


def check_guest(host: Host) -> tuple[Result, ...]:
    return (run(guest.GUEST, host),)

"""What a host check reads of a host beside its files: MSRs, the kernel log, and what programs say.

Two sources answer alike: ``LiveHost`` asks this machine, ``CapturedHost`` (``linux_captured``) a captured tree.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from tdxstack.errors import ProcessFailed, ProcessTimeout, ProgramMissing
from tdxstack.platform.linux_host_files import HostFiles, HostReadError
from tdxstack.system import process

PIPE = -1  # subprocess.PIPE

DIRECTORY = "/.tdxstack"
QEMU_PROGRAMS = ("/usr/bin/qemu-system-x86_64", "/usr/libexec/qemu-kvm", "/usr/local/bin/qemu-system-x86_64")
#: Units whose state a check looks at.
UNITS = (
    "qgsd.service",
    "pccs.service",
    "mpa_registration_tool.service",
    "libvirtd.service",
    "virtqemud.service",
    "virtqemud.socket",
    "libvirtd.socket",
)
#: A kernel log is kept up to this size, its end first.
DMESG_LIMIT = 16 << 20


class Answer(StrEnum):
    """What a host is asked besides its files."""

    PROCESSOR = "processor"
    REGISTERS = "registers"
    QEMU = "qemu"
    LIBVIRT = "libvirt"
    SERVICES = "services"
    DEVICES = "devices"
    PROGRAMS = "programs"


@dataclass(frozen=True, slots=True)
class QemuFacts:
    """What a QEMU says of itself. ``tdx_guest`` lists the object's properties, or is None without the object."""

    path: str
    version: str
    tdx_guest: tuple[str, ...] | None
    machines: tuple[str, ...] = ()


class ClosableStream(Protocol):
    """Bytes that are read and closed."""

    def read(self, size: int, /) -> bytes: ...
    def close(self) -> None: ...


class Journal:
    """What ``journalctl`` prints, read while it runs."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._program = process.spawn(argv, stdout=PIPE, die_with_parent=False)

    def read(self, size: int, /) -> bytes:
        stream = self._program.stdout
        return stream.read(size) if stream is not None else b""

    def close(self) -> None:
        if self._program.stdout is not None:
            self._program.stdout.close()
        self._program.terminate()
        self._program.wait(timeout=20)


class HostSource(Protocol):
    """A host to look at."""

    @property
    def files(self) -> HostFiles: ...

    def tells(self, answer: Answer) -> bool:
        """Whether this was asked at all; a captured tree may leave out what nobody thought of."""
        ...

    def cpus(self) -> Sequence[int]:
        """Numbers of the online CPUs whose MSRs can be asked for."""
        ...

    def msr(self, cpu: int, index: int) -> int:
        """A 64-bit register. Raises HostReadError: no such register, no driver, no privilege."""
        ...

    def dmesg(self) -> str:
        """The kernel log. Raises HostReadError: not readable."""
        ...

    def journal(self) -> ClosableStream | None:
        """The journal of this boot of the kernel and of the stack's services as text, or None where there is none."""
        ...

    def qemu(self) -> QemuFacts | None:
        """The QEMU of the host, or None without one."""
        ...

    def domain_capabilities(self) -> str | None:
        """libvirt's domain capabilities (XML), or None where libvirt does not answer."""
        ...

    def dmidecode(self) -> tuple[str, bytes] | None:
        """Where ``dmidecode``'s output is kept, and what it says; None where the firmware's own table is asked."""
        ...

    def services(self) -> Mapping[str, str]:
        """systemd unit -> active, inactive, failed; what is not installed is absent."""
        ...

    def rpm_packages(self) -> str | None:
        """``name<TAB>version`` a line, or None where RPM is not used."""
        ...


class LiveHost:
    """This machine."""

    def __init__(self) -> None:
        self.files = HostFiles()

    def tells(self, answer: Answer) -> bool:
        return True

    def cpus(self) -> Sequence[int]:
        return sorted(os.sched_getaffinity(0))

    def msr(self, cpu: int, index: int) -> int:
        path = f"/dev/cpu/{cpu}/msr"
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            hint = "modprobe msr" if missing else "run as root"
            raise HostReadError(path, error.strerror or str(error), missing=missing, hint=hint) from error
        try:
            value = os.pread(descriptor, 8, index)
        except OSError as error:
            raise HostReadError(path, f"MSR {index:#x} cannot be read: {error.strerror}", missing=True) from error
        finally:
            os.close(descriptor)
        return int.from_bytes(value, "little")

    def dmesg(self) -> str:
        try:
            return process.run(["dmesg", "--color=never"], timeout=20).text
        except ProgramMissing as error:
            raise HostReadError("dmesg", "program not found", missing=True) from error
        except (ProcessFailed, ProcessTimeout) as error:
            raise HostReadError("dmesg", error.message, hint="run as root") from error

    def journal(self) -> ClosableStream | None:
        units = [word for unit in (*UNITS, "aesmd.service") for word in ("-u", unit)]
        try:
            return Journal(["journalctl", "--boot", "--no-pager", "--quiet", *units])
        except ProgramMissing:
            return None

    def qemu(self) -> QemuFacts | None:
        for path in QEMU_PROGRAMS:
            if Path(path).is_file():
                return _ask_qemu(path)
        return None

    def domain_capabilities(self) -> str | None:
        return _ask(["virsh", "-c", "qemu:///system", "domcapabilities"])

    def dmidecode(self) -> tuple[str, bytes] | None:
        return None

    def services(self) -> Mapping[str, str]:
        text = _ask(["systemctl", "show", "--property=Id,LoadState,ActiveState", *UNITS])
        return {} if text is None else parse_units(text)

    def rpm_packages(self) -> str | None:
        if not self.files.exists("/var/lib/rpm") and not self.files.exists("/usr/lib/sysimage/rpm"):
            return None
        return _ask(["rpm", "-qa", "--queryformat", r"%{NAME}\t%{VERSION}-%{RELEASE}\n"])


def dangerous_write_msr(cpu: int, index: int, value: int) -> None:
    """Write a 64-bit register of this machine.

    Raises:
        HostReadError: no such register, no driver, no privilege, or the CPU refuses the value.
    """
    path = f"/dev/cpu/{cpu}/msr"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(descriptor, value.to_bytes(8, "little"), index)
        finally:
            os.close(descriptor)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        hint = "modprobe msr" if missing else "run as root, with msr.allow_writes=on"
        raise HostReadError(path, f"MSR {index:#x}: {error.strerror}", missing=missing, hint=hint) from error


def _ask(argv: Sequence[str]) -> str | None:
    try:
        done = process.run(argv, timeout=20, env=dict(os.environ) | {"LC_ALL": "C"})
    except (ProgramMissing, ProcessFailed, ProcessTimeout):
        return None
    return done.text


def _ask_qemu(path: str) -> QemuFacts:
    version = re.search(r"version (\S+)", _ask([path, "--version"]) or "")
    properties = None
    if "tdx-guest" in (_ask([path, "-object", "help"]) or "").split():
        text = _ask([path, "-object", "tdx-guest,help"]) or ""
        properties = tuple(re.findall(r"^\s+([a-z0-9-]+)=", text, re.M))
    machines = re.findall(r"^(\S+)", _ask([path, "-machine", "help"]) or "", re.M)
    return QemuFacts(path, version[1] if version else "", properties, tuple(machines[1:]))


def parse_units(text: str) -> dict[str, str]:
    """What ``systemctl show`` printed, as unit -> state; units that are not installed are left out."""
    states: dict[str, str] = {}
    for block in text.split("\n\n"):
        fields = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if fields.get("LoadState") == "loaded" and "Id" in fields:
            states[fields["Id"]] = fields.get("ActiveState", "")
    return states

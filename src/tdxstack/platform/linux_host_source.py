"""What a host check reads of a host beside its files: MSRs, the kernel log, and what programs say.

Two sources answer alike: ``LiveHost`` asks this machine, ``CapturedHost`` a tree made by ``tdxctl host capture``. In
a tree these answers are files under ``/.tdxstack``:

===================== ==============================================================================================
file                  content
===================== ==============================================================================================
capture.json          ``{"schema": "tdxstack/host-capture/v1", "cpus": 2, "privileged": true}``
msr.json              ``{"0x982": {"0": "0x3", "1": "0x3"}}``: MSR -> CPU -> value; an absent MSR faulted on reading
dmesg                 the kernel log, one message a line, with or without time stamps
qemu.json             ``{"path": ..., "version": "10.1.0", "tdx_guest": ["attributes", ...] or null}``
domcapabilities.xml   what ``virsh domcapabilities`` says
journal               the journal of the stack's services, if it was put there by hand
services.json         ``{"qgsd.service": "active", "libvirtd.service": "inactive"}``; an absent unit is not installed
rpm-packages          ``name<TAB>version`` a line, where the host uses RPM
===================== ==============================================================================================
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tdxstack.errors import ProcessFailed, ProcessTimeout, ProgramMissing
from tdxstack.platform.linux_host_files import LIMIT, HostFiles, HostReadError
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


class CapturedHost:
    """A tree that a host's files were captured into."""

    def __init__(self, root: Path) -> None:
        self.files = HostFiles(root)

    def _json(self, name: str) -> Any:
        path = f"{DIRECTORY}/{name}"
        try:
            return json.loads(self.files.text(path))
        except (ValueError, RecursionError) as error:
            raise HostReadError(path, f"not JSON: {error}") from error

    def _table(self, name: str) -> dict[str, Any]:
        value = self._json(name)
        if not isinstance(value, dict):
            raise HostReadError(f"{DIRECTORY}/{name}", "not a JSON object")
        return value

    def cpus(self) -> Sequence[int]:
        try:
            count = self._table("capture.json").get("cpus", 1)
        except HostReadError:
            count = 1
        return range(count if isinstance(count, int) and 0 < count <= 8192 else 1)

    def msr(self, cpu: int, index: int) -> int:
        path = f"{DIRECTORY}/msr.json"
        values = self._table("msr.json").get(hex(index))
        if not isinstance(values, dict) or str(cpu) not in values:
            raise HostReadError(path, f"MSR {index:#x} of CPU {cpu} was not readable", missing=True)
        try:
            value = int(str(values[str(cpu)]), 0)
        except ValueError:
            raise HostReadError(path, f"MSR {index:#x} of CPU {cpu} is {values[str(cpu)]!r}") from None
        if not 0 <= value < 1 << 64:
            raise HostReadError(path, f"MSR {index:#x} of CPU {cpu} does not fit 64 bits")
        return value

    def dmesg(self) -> str:
        return self.files.text(f"{DIRECTORY}/dmesg", limit=DMESG_LIMIT)

    def journal(self) -> ClosableStream | None:
        try:
            return self.files.resolve(f"{DIRECTORY}/journal").open("rb")
        except OSError:
            return None

    def qemu(self) -> QemuFacts | None:
        try:
            table = self._table("qemu.json")
        except HostReadError as error:
            if error.missing:
                return None
            raise
        properties = table.get("tdx_guest")
        return QemuFacts(
            str(table.get("path", "")),
            str(table.get("version", "")),
            tuple(map(str, properties)) if isinstance(properties, list) else None,
            tuple(map(str, table.get("machines") or ())) if isinstance(table.get("machines"), list) else (),
        )

    def domain_capabilities(self) -> str | None:
        try:
            return self.files.text(f"{DIRECTORY}/domcapabilities.xml", limit=LIMIT)
        except HostReadError:
            return None

    def services(self) -> Mapping[str, str]:
        try:
            return {str(unit): str(state) for unit, state in self._table("services.json").items()}
        except HostReadError as error:
            if error.missing:
                return {}
            raise

    def rpm_packages(self) -> str | None:
        try:
            return self.files.text(f"{DIRECTORY}/rpm-packages")
        except HostReadError:
            return None


def open_host(root: Path | None) -> HostSource:
    """This machine, or the tree at ``root``.

    Raises:
        HostReadError: there is no such tree.
    """
    if root is None:
        return LiveHost()
    if not root.is_dir():
        raise HostReadError(str(root), "no such directory", missing=True)
    return CapturedHost(root)

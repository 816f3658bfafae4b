"""A captured tree of a host: what ``tdxctl host capture`` writes, and what people copy together by hand.

The host's files stand under their own paths. What is no file is looked for under these names, the first that is there
counts (registers: see ``linux_capture_registers``):

==================== ===============================================================================================
what                 names
==================== ===============================================================================================
about the capture    ``/.tdxstack/capture.json``: schema ``tdxstack/host-capture/v1``, ``"cpus": 2``
kernel log           ``/.tdxstack/dmesg``, ``/dmesg``, ``/dmesg.txt``, ``/dmesg.log``, ``/kernel.log``, ``/kern.log``,
                     ``dmesg``, ``kern.log``, ``messages``, ``syslog`` in ``/var/log``, ``/proc/kmsg``; gzip too
journal              ``/.tdxstack/journal``, ``/journal``, ``/journal.txt``, ``/journal.log``, ``/journalctl.txt``
QEMU                 ``/.tdxstack/qemu.json``: ``path``, ``version``, ``tdx_guest``: properties or null
libvirt              ``/.tdxstack/domcapabilities.xml``, ``/domcapabilities.xml``: what ``virsh domcapabilities`` says
SMBIOS               ``/sys/firmware/dmi/tables/DMI``; else ``/dmidecode``, ``/dmidecode.txt``, ``/dmidecode.bin``
services             ``/.tdxstack/services.json``: ``{"qgsd.service": "active"}``; an absent unit is not installed
RPM packages         ``/.tdxstack/rpm-packages``: ``name<TAB>version`` a line
==================== ===============================================================================================

With ``capture.json`` what is absent is absent on the host; without it nobody may have asked, and ``tells`` says so.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tdxstack.platform.linux_capture_registers import Registers, read_registers
from tdxstack.platform.linux_host_files import LIMIT, HostFiles, HostReadError
from tdxstack.platform.linux_host_source import DIRECTORY, DMESG_LIMIT, Answer, ClosableStream, QemuFacts

ABOUT = f"{DIRECTORY}/capture.json"
LOG_NAMES = ("/dmesg", "/dmesg.txt", "/dmesg.log", "/dmesg.out", "/dmesg.json", "/kernel.log", "/kern.log")
SYSTEM_LOGS = tuple(f"/var/log/{name}" for name in ("dmesg", "kern.log", "messages", "syslog"))
KERNEL_LOGS = (f"{DIRECTORY}/dmesg", *LOG_NAMES, "/run/dmesg", *SYSTEM_LOGS, "/proc/kmsg")
JOURNALS = (
    f"{DIRECTORY}/journal",
    *(f"/{name}{end}" for name in ("journal", "journalctl") for end in ("", ".txt", ".log", ".json")),
)
#: A message in the journal's JSON, or in that of ``dmesg --json``.
_MESSAGE = re.compile(r'"(?:MESSAGE|msg)"\s*:\s*("(?:[^"\\]|\\.)*")')
CAPABILITIES = (f"{DIRECTORY}/domcapabilities.xml", "/domcapabilities.xml", "/virsh-domcapabilities.xml")
DMIDECODE = tuple(
    f"{place}/dmidecode{end}" for place in (DIRECTORY, "") for end in ("", ".txt", ".log", ".out", ".bin")
)
#: What tells, in place of ``capture.json``, that an answer was asked for.
WITNESSES = {
    Answer.QEMU: (f"{DIRECTORY}/qemu.json",),
    Answer.LIBVIRT: CAPABILITIES,
    Answer.SERVICES: (f"{DIRECTORY}/services.json",),
    Answer.DEVICES: ("/dev/sgx_enclave", "/dev/sgx_provision", "/dev/kvm"),
    Answer.PROCESSOR: (),
    Answer.PROGRAMS: (f"{DIRECTORY}/firmware.json", "/var/lib/dpkg/status", f"{DIRECTORY}/rpm-packages"),
}


class CapturedHost:
    """A tree that a host's files were captured into."""

    def __init__(self, root: Path) -> None:
        self.files = HostFiles(root)

    def tells(self, answer: Answer) -> bool:
        if self.files.exists(ABOUT):
            return True
        if answer is Answer.REGISTERS:
            return self._registers is not None
        return any(self.files.exists(path) for path in WITNESSES[answer])

    def _first(self, names: Sequence[str]) -> str | None:
        return next((name for name in names if self.files.is_file(name)), None)

    def _table(self, name: str) -> dict[str, Any]:
        path = f"{DIRECTORY}/{name}"
        try:
            value = json.loads(self.files.text(path))
        except (ValueError, RecursionError) as error:
            raise HostReadError(path, f"not JSON: {error}") from error
        if not isinstance(value, dict):
            raise HostReadError(path, "not a JSON object")
        return value

    @cached_property
    def _registers(self) -> Registers | None:
        return read_registers(self.files)

    def cpus(self) -> Sequence[int]:
        try:
            count = self._table("capture.json").get("cpus", 1)
        except HostReadError:
            count = 0
        if isinstance(count, int) and 0 < count <= 8192:
            return range(count)
        try:
            return (self._registers.cpus if self._registers else []) or [0]
        except HostReadError:
            return [0]

    def msr(self, cpu: int, index: int) -> int:
        if self._registers is None:
            raise HostReadError(f"MSR {index:#x} of CPU {cpu}", "the tree keeps no registers", missing=True)
        return self._registers.value(cpu, index)

    def dmesg(self) -> str:
        """The kernel log; of a tree that has none the journal, which has the kernel's lines too."""
        path = self._first(KERNEL_LOGS) or self._first(JOURNALS) or KERNEL_LOGS[0]
        return _spoken(self._unpacked(path))

    def _unpacked(self, path: str) -> str:
        data = self.files.read(path, limit=DMESG_LIMIT)
        if data[:2] == b"\x1f\x8b":
            try:
                data = zlib.decompressobj(wbits=31).decompress(data, DMESG_LIMIT)
            except (gzip.BadGzipFile, zlib.error, EOFError) as error:
                raise HostReadError(path, f"not gzip: {error}") from error
        return data.decode("utf-8", errors="replace")

    def journal(self) -> ClosableStream | None:
        try:
            path = self._first(JOURNALS)
            return self.files.resolve(path).open("rb") if path else None
        except OSError:
            return None

    def qemu(self) -> QemuFacts | None:
        try:
            table = self._table("qemu.json")
        except HostReadError as error:
            if error.missing:
                return None
            raise
        properties, machines = table.get("tdx_guest"), table.get("machines")
        return QemuFacts(
            str(table.get("path", "")),
            str(table.get("version", "")),
            tuple(map(str, properties)) if isinstance(properties, list) else None,
            tuple(map(str, machines)) if isinstance(machines, list) else (),
        )

    def domain_capabilities(self) -> str | None:
        path = self._first(CAPABILITIES)
        try:
            return self.files.text(path, limit=LIMIT) if path else None
        except HostReadError:
            return None

    def dmidecode(self) -> tuple[str, bytes] | None:
        path = self._first(DMIDECODE)
        return (path, self.files.read(path)) if path else None

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


def _spoken(text: str) -> str:
    """The log, with messages in JSON as lines of their own."""
    if '"MESSAGE"' not in text and '"msg"' not in text:
        return text
    return "\n".join(_line(line) for line in text.splitlines())


def _line(line: str) -> str:
    found = _MESSAGE.search(line)
    try:
        return str(json.loads(found[1])) if found else line
    except ValueError:
        return line

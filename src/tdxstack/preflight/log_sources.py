"""Where logs are: files that were named, standard input, or the logs of this machine (or of a captured tree)."""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO

from tdxstack.errors import SystemFault
from tdxstack.platform.linux_captured import JOURNALS, KERNEL_LOGS, SYSTEM_LOGS
from tdxstack.platform.linux_host_files import HostReadError
from tdxstack.platform.linux_host_source import HostSource
from tdxstack.preflight.diagnosis import Readable, Scan, Scanner

#: Log files of a host, besides the kernel log and the journal: directories are read one level deep.
PLACES = (
    "/var/log/mpa_registration.log",
    "/opt/intel/sgx-dcap-pccs/logs",
    "/var/log/pccs",
    "/var/log/pccs.log",
    "/var/log/libvirt/libvirtd.log",
    "/var/log/libvirt/qemu",
    "/var/log/qgsd.log",
    "/var/log/tdx-qgs",
)
#: Names of logs at the top of a tree.
LOG_NAME = re.compile(
    r"(?i)[\w.-]*(?:dmesg|kern|journal|qemu|libvirt|qgs|pccs|qcnl|mpa|guest|aesm|syslog|messages)[\w.-]*\.(?:log|txt)(?:\.gz)?"
)


def scan_file(path: Path) -> Scan:
    """Read one log, packed with gzip or not.

    Raises:
        SystemFault: it cannot be read.
    """
    try:
        with _opened(path) as stream:
            return Scanner(str(path)).read(stream)
    except (OSError, EOFError, zlib.error) as error:
        raise SystemFault(
            f"{path}: {getattr(error, 'strerror', None) or error}", hint="name log files, or - for standard input"
        ) from error


def _opened(path: Path) -> IO[bytes]:
    stream = path.open("rb")
    if stream.read(2) == b"\x1f\x8b":
        stream.close()
        return gzip.open(path)  # type: ignore[return-value]
    stream.seek(0)
    return stream


def scan_stream(name: str, stream: Readable) -> Scan:
    return Scanner(name).read(stream)


def scan_host(source: HostSource) -> Iterator[Scan]:
    """Read the logs of a host: kernel log, journal of the services, and files."""
    journal = source.journal()
    if journal is None or source.files.live or _own_kernel_log(source) is not None:
        try:
            yield scan_stream("kernel log", io.BytesIO(source.dmesg().encode()))
        except HostReadError:
            yield Scan("kernel log (not readable)")
    if journal is not None:
        with closing(journal):
            yield scan_stream("journal", journal)
    for path in (*PLACES, *(() if source.files.live else _by_hand(source))):
        for name in _files(source, path):
            try:
                yield scan_file(source.files.resolve(name))
            except SystemFault:
                yield Scan(f"{name} (not readable)")


def _by_hand(source: HostSource) -> list[str]:
    """Logs in a tree that somebody copied together: at its top, and the system's own."""
    top = [f"/{name}" for name in source.files.names("/") if LOG_NAME.fullmatch(name)]
    used = _own_kernel_log(source)
    return [path for path in (*top, *SYSTEM_LOGS) if path not in (used, *JOURNALS)]


def _own_kernel_log(source: HostSource) -> str | None:
    """A tree's kernel log; None where the journal stands in for it."""
    return next((path for path in KERNEL_LOGS if source.files.is_file(path)), None)


def _files(source: HostSource, path: str) -> Sequence[str]:
    if not source.files.exists(path):
        return ()
    if source.files.resolve(path).is_dir():
        names = (f"{path}/{name}" for name in source.files.names(path))
        return [name for name in names if source.files.resolve(name).is_file()]
    return [path]

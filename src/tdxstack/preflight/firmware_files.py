"""Virtual firmware files of a host: which are there, whether each is a TDVF and measures, and its digest.

A capture leaves the files themselves out and keeps these facts as ``/.tdxstack/firmware.json``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace

from tdxstack.errors import WireError
from tdxstack.measure.firmware import inspect
from tdxstack.platform.linux_host_files import HostFiles, HostReadError
from tdxstack.platform.linux_host_source import DIRECTORY

#: TDVF's metadata GUID e47a6535-984a-4798-865e-4685a7bf8ec2 as it stands in a file (TDVF Design Guide, section 11).
TDVF_METADATA_GUID = bytes.fromhex("35657ae44a989847865e4685a7bf8ec2")
#: Where distributions and the 1.5 stack put a firmware that can run TDs.
PLACES = (
    "/usr/share/ovmf/OVMF.inteltdx.fd",
    "/usr/share/ovmf/OVMF.inteltdx.ms.fd",
    "/usr/share/ovmf/OVMF.tdx.fd",
    "/usr/share/OVMF/OVMF.inteltdx.fd",
    "/usr/share/edk2/ovmf/OVMF.inteltdx.fd",
    "/usr/share/edk2/ovmf/OVMF.inteltdx.secboot.fd",
    "/usr/share/qemu/OVMF.fd",
    "/usr/share/ovmf/OVMF.fd",
)
FACTS = f"{DIRECTORY}/firmware.json"
MAX_SIZE = 32 << 20


@dataclass(frozen=True, slots=True)
class FirmwareFile:
    """A firmware file.

    ``tdvf`` says whether it carries TDX metadata; ``md5`` is what package databases list; ``measures`` whether it
    extends RTMRs, None where that cannot be read; ``release`` is the edk2 release that it acts like.
    """

    path: str
    tdvf: bool
    md5: str
    measures: bool | None = None
    release: str | None = None
    #: Where a link of this path leads: package databases list the file, not the link.
    file: str | None = None

    @property
    def listed(self) -> str:
        """The path under which its package lists it."""
        return self.file or self.path


def firmware_files(files: HostFiles, further: Iterable[str] = ()) -> list[FirmwareFile]:
    """Those of ``PLACES`` that are there, in that order, and of ``further`` paths.

    Raises:
        HostReadError: one cannot be read, or a capture's facts are none.
    """
    if files.exists(FACTS):
        return _captured(files)
    present = [path for path in dict.fromkeys((*PLACES, *further)) if files.exists(path)]
    return [
        replace(_look(path, files.read(path, limit=MAX_SIZE)), file=_behind_links(files, path)) for path in present
    ]


def _behind_links(files: HostFiles, path: str) -> str | None:
    found = f"/{files.resolve(path).relative_to(files.root)}"
    return None if found == path else found


def _look(path: str, data: bytes) -> FirmwareFile:
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if TDVF_METADATA_GUID not in data:
        return FirmwareFile(path, tdvf=False, md5=md5)
    try:
        facts = inspect(data)
    except WireError:
        return FirmwareFile(path, tdvf=True, md5=md5)
    if not (facts.measures_td or facts.loaded_volumes):
        return FirmwareFile(path, tdvf=True, md5=md5)
    return FirmwareFile(path, tdvf=True, md5=md5, measures=facts.measures_td, release=facts.release)


def _captured(files: HostFiles) -> list[FirmwareFile]:
    try:
        entries = json.loads(files.text(FACTS))
        if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
            raise HostReadError(FACTS, "not a list of firmware files")
        return [_told(one) for one in entries]
    except (ValueError, KeyError, RecursionError) as error:
        raise HostReadError(FACTS, f"not a list of firmware files: {type(error).__name__} {error}") from error


def _told(entry: dict[str, object]) -> FirmwareFile:
    measures, release, file = (entry.get(name) for name in ("measures", "release", "file"))
    return FirmwareFile(
        str(entry["path"]),
        bool(entry["tdvf"]),
        str(entry["md5"]),
        measures if isinstance(measures, bool) else None,
        release if isinstance(release, str) else None,
        file if isinstance(file, str) else None,
    )

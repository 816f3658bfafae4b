"""Virtual firmware files of a host: which are there, whether each is a TDVF, and its digest.

A capture leaves the files themselves out and keeps these facts as ``/.tdxstack/firmware.json``.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from tdxstack.platform.linux_host_files import HostFiles, HostReadError
from tdxstack.platform.linux_host_source import DIRECTORY

#: TDVF's metadata GUID e47a6535-984a-4798-865e-4685a7bf8ec2 as it stands in a file (TDVF Design Guide, section 11).
TDVF_METADATA_GUID = bytes.fromhex("35657ae44a989847865e4685a7bf8ec2")
#: Where distributions and the 1.5 stack put a firmware that can run TDs.
PLACES = (
    "/usr/share/ovmf/OVMF.inteltdx.fd",
    "/usr/share/ovmf/OVMF.tdx.fd",
    "/usr/share/OVMF/OVMF.inteltdx.fd",
    "/usr/share/edk2/ovmf/OVMF.inteltdx.fd",
    "/usr/share/qemu/OVMF.fd",
    "/usr/share/ovmf/OVMF.fd",
)
FACTS = f"{DIRECTORY}/firmware.json"
MAX_SIZE = 32 << 20


@dataclass(frozen=True, slots=True)
class FirmwareFile:
    """A firmware file. ``tdvf`` says whether it carries TDX metadata; ``md5`` is what package databases list."""

    path: str
    tdvf: bool
    md5: str


def firmware_files(files: HostFiles) -> list[FirmwareFile]:
    """Those of ``PLACES`` that are there, in that order.

    Raises:
        HostReadError: one cannot be read, or a capture's facts are none.
    """
    if files.exists(FACTS):
        return _captured(files)
    found = []
    for path in PLACES:
        if files.exists(path):
            data = files.read(path, limit=MAX_SIZE)
            md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
            found.append(FirmwareFile(path, TDVF_METADATA_GUID in data, md5))
    return found


def _captured(files: HostFiles) -> list[FirmwareFile]:
    try:
        entries = json.loads(files.text(FACTS))
        return [FirmwareFile(str(one["path"]), bool(one["tdvf"]), str(one["md5"])) for one in entries]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise HostReadError(FACTS, f"not a list of firmware files: {error}") from error

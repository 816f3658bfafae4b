"""What is found in firmware files, kept by the file's digest: looking into one takes a fifth of a second."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, fields
from pathlib import Path

from tdxstack.errors import WireError
from tdxstack.measure.firmware import FirmwareFacts, inspect
from tdxstack.system import files, paths

#: Goes up when :func:`tdxstack.measure.firmware.inspect` finds other things.
CACHE_VERSION = 4


def facts_of(firmware: bytes, *, cache: bool = True) -> FirmwareFacts:
    """The facts of a firmware file, from the cache or by looking.

    Raises:
        WireError: the file's compressed part is damaged.
    """
    root = paths.cache()
    name = f"firmware-facts/{hashlib.sha256(firmware).hexdigest()}-{CACHE_VERSION}.json"
    if cache and (known := _load(root / name)) is not None:
        return known
    facts = inspect(firmware)
    if cache:
        members = asdict(facts)
        members["loaded_volumes"] = [digest.hex() for digest in facts.loaded_volumes]
        files.write_cache(root, name, json.dumps(members))
    return facts


def needs_smm(firmware: Path | None) -> bool:
    """Whether a firmware file starts only with system management mode and flash; False for what is no firmware."""
    if firmware is None:
        return False
    try:
        return facts_of(firmware.read_bytes()).needs_smm
    except (OSError, WireError):
        return False


def _load(path: Path) -> FirmwareFacts | None:
    try:
        members = json.loads(path.read_text())
        volumes = tuple(bytes.fromhex(digest) for digest in members.pop("loaded_volumes"))
        if set(members) != {field.name for field in fields(FirmwareFacts)} - {"loaded_volumes"}:
            return None
        return FirmwareFacts(loaded_volumes=volumes, **members)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None

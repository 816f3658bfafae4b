"""A boot that was recorded (see ``vectors/measure/direct-boot``), as inputs of a prediction."""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import replace
from pathlib import Path

from firmware_file import firmware_file, layout_4m
from tdxstack.measure import FirmwareBlobs, PredictionInputs
from tdxstack.measure.firmware import FirmwareFacts
from tdxstack.vm.marker_kernel import marker_kernel

BOOT = Path(__file__).parent / "vectors" / "measure" / "direct-boot"
GIB = 1 << 30
FIRMWARE = firmware_file(layout_4m((0x814000, 0xC000)))
CMDLINE = "console=ttyS0 quiet panic=-1"


def recorded_blobs() -> FirmwareBlobs:
    files = json.loads(gzip.decompress((BOOT / "blobs.json.gz").read_bytes()))
    return FirmwareBlobs(tuple((name, base64.b64decode(text)) for name, text in files.items()))


def recorded_facts() -> FirmwareFacts:
    facts = json.loads((BOOT / "facts.json").read_text())
    volumes = tuple(bytes.fromhex(digest) for digest in facts.pop("loaded_volumes"))
    return FirmwareFacts(loaded_volumes=volumes, **facts)


def inputs(**changes: object) -> PredictionInputs:
    base = PredictionInputs(
        firmware=FIRMWARE,
        memory_bytes=2 * GIB,
        kernel=marker_kernel(),
        initrd=b"initrd",
        cmdline=CMDLINE,
        blobs=recorded_blobs(),
        facts=recorded_facts(),
    )
    return replace(base, **changes)  # type: ignore[arg-type]

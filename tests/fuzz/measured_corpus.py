"""Seeds for the targets of ``measured``, all made here: ``PYTHONPATH=tests python -m fuzz.measured_corpus``."""

from __future__ import annotations

import hashlib
import struct
from uuid import UUID

from efi_disk import _table
from firmware_file import GENERIC_4M, firmware_file
from fuzz.targets import CORPUS
from pe_image import image
from tdxstack.wire import qgs
from tdxstack.wire.ccel import CcelTable
from tdxstack.wire.efi.signatures import Signature, SignatureList
from tdxstack.wire.efi.variable import GLOBAL_VARIABLE, VariableData, load_option
from tdxstack.wire.hob import ResourceHob, TdHob
from tdxstack.wire.tcg import Algorithm, Digest, Event, EventLog, EventType, SpecIdEvent
from varstore_file import blank_store


def log() -> EventLog:
    """A boot in a few events."""
    option = load_option("Debian", b"\x04\x04\x08\0a\0\0\0")
    parts = (
        (1, EventType.EV_EFI_VARIABLE_DRIVER_CONFIG, VariableData(GLOBAL_VARIABLE, "SecureBoot", b"\1").to_bytes()),
        (1, EventType.EV_EFI_VARIABLE_BOOT, VariableData(GLOBAL_VARIABLE, "Boot0000", option).to_bytes()),
        (1, EventType.EV_SEPARATOR, bytes(4)),
        (2, EventType.EV_EFI_BOOT_SERVICES_APPLICATION, bytes(32) + b"\x04\x04\x0a\0k\0e\0\0\0\x7f\xff\x04\0"),
        (3, EventType.EV_IPL, b"kernel_cmdline: /vmlinuz ro quiet\0"),
        (3, EventType.EV_EVENT_TAG, struct.pack("<II", 0x8F3B22EC, 13) + b"Linux initrd\0"),
    )
    return EventLog(
        SpecIdEvent(),
        tuple(
            Event(index, kind, (Digest(Algorithm.SHA384, hashlib.sha384(data).digest()),), data)
            for index, kind, data in parts
        ),
        bytes(64),
    )


def ima_list() -> bytes:
    """Two entries in ASCII."""
    lines = []
    for name in ("boot_aggregate", "/usr/bin/true"):
        digest = "sha256:" + hashlib.sha256(name.encode()).hexdigest()
        lines.append(f"10 {hashlib.sha1(name.encode()).hexdigest()} ima-ng {digest} {name}")  # noqa: S324
    return "\n".join(lines).encode() + b"\n"


def seeds() -> dict[str, bytes]:
    """Every seed by its path in the corpus."""
    signatures = SignatureList(UUID(int=5), (Signature(UUID(int=7), bytes(32)),))
    report = bytes([0x81, 0, 0, 0]) + bytes(1020)
    smbios = struct.pack("<BBHBBH", 1, 8, 1, 1, 2, 0) + b"Maker\0Model\0\0" + struct.pack("<BBH", 127, 4, 2) + b"\0\0"
    return {
        "ccel/table": CcelTable(0x10000, 0x1000).to_bytes(),
        "ccel/log": log().to_bytes(),
        "eventlog/log": log().to_bytes(),
        "eventlog/json": b'[{"imr":0,"event_type":4,"digest":"' + b"00" * 48 + b'","event":"x","event_payload":""}]',
        "ima/ascii": ima_list(),
        "tdvf/ovmf": firmware_file(GENERIC_4M)[-0x400:],
        "tdvf/td-shim": firmware_file(GENERIC_4M, layout="td-shim")[-0x400:],
        "tdvf/variables": blank_store(0x400),
        "variables/data": VariableData(GLOBAL_VARIABLE, "PK", signatures.to_bytes()).to_bytes(),
        "variables/lists": signatures.to_bytes(),
        "variables/hob": TdHob(0x809000, (ResourceHob(0, 0, 0x80000000),)).to_bytes(),
        "pe/uki": image((".cmdline", b"ro quiet"), (".linux", b"kernel"), (".initrd", b"initrd")),
        "smbios/table": smbios,
        "gpt/disk": bytes(512) + _table([(UUID(int=9), 0x100000, 0x100000, "esp")], 8192)[:2048],
        "qgs/quote": qgs.frame(qgs.GetQuoteRequest(report).to_bytes()),
        "qgs/collateral": qgs.frame(qgs.GetCollateralRequest(bytes(6), "platform").to_bytes()),
        "qgs/platform": qgs.GetPlatformInfoRequest().to_bytes(),
    }


def main() -> None:
    """Write them."""
    for name, data in seeds().items():
        path = CORPUS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


if __name__ == "__main__":
    main()

"""TDX modules for tests: signature structures and blobs like Intel's, signed by a key of the tests' own."""

from __future__ import annotations

import hashlib
import json
import struct
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tdxstack.wire.seam import BlobVersion, SeamSigstruct, TdxBlob

EMERALD_RAPIDS, SAPPHIRE_RAPIDS = 0xC06F0, 0x806F8
MODULE = b"a TDX module's code".ljust(4096, b"\x90") + bytes(4096)


@cache
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 3072)


def signer() -> bytes:
    """SHA-384 of the tests' modulus, as INTEL_SIGNER is of Intel's."""
    return hashlib.sha384(_modulus()).digest()


def _modulus() -> bytes:
    return key().public_key().public_numbers().n.to_bytes(384, "little")


def sigstruct(
    module: bytes = MODULE, *, svn: int = 0x105, debug: bool = False, cpus: tuple[int, ...] = (EMERALD_RAPIDS,)
) -> bytes:
    """SEAM_SIGSTRUCT of ``module``."""
    head = struct.pack("<10I", 6, 0xE1, 0x10000, 1 << 31 if debug else 0, 0x8086, 0x20250219, 0x200, 0x60, 0x60, 1)
    body = hashlib.sha384(module).digest() + struct.pack("<HQ", svn, 0)
    rest = body.ljust(1024 - 900, b"\0") + struct.pack(f"<I{len(cpus)}I", len(cpus), *cpus)
    first, rest = head.ljust(128, b"\0"), rest.ljust(2048 - 900, b"\0")
    signature = key().sign(first + rest, padding.PKCS1v15(), hashes.SHA384())
    return first + _modulus() + (65537).to_bytes(4, "little") + signature[::-1] + rest


def blob(version: BlobVersion = BlobVersion.ONE, **changes: object) -> TdxBlob:
    return TdxBlob(version, SeamSigstruct.from_bytes(sigstruct(**changes)), MODULE)  # type: ignore[arg-type]


def releases(directory: Path, *versions: str) -> Path:
    """A directory of releases like the vendor's, with its mapping file."""
    entries = [
        {
            "version": version,
            "min_module_version_for_td_preserving": f"{version[:3]}.{'01' if version < '2' else '04'}",
            "min_seamldr_versions": ["1.5.00", "2.0.00"] if version < "2" else ["2.0.00"],
            "tdx_feature0": "0x226F3F0FBF",
        }
        for version in versions
    ]
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "mapping_file.json").write_text(json.dumps({"Header": {}, "tdx_module_releases": entries}))
    for version in versions:
        place = directory / "joined_files" / version[:3]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"tdx_module_{version}.blob").write_bytes(blob().to_bytes())
    return directory

"""A TDX module as it is shipped: SEAM_SIGSTRUCT, and the blob that holds signature structure and module.

SEAM_SIGSTRUCT: Intel TDX Loader (SEAMLDR) Interface Specification, "SEAM_SIGSTRUCT". The blob has two forms: version
0x100 (``blob_structure.txt`` of Intel's TDX module releases) and version 0x200, which Linux's firmware upload takes
(``struct tdx_image_header``, arch/x86/virt/vmx/tdx/seamldr.c).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from tdxstack.errors import WireError

PAGE = 4096
SIGSTRUCT_SIZE = 2048
#: P-SEAMLDR takes a module of at most 496 pages and a signature structure of at most one.
MAX_MODULE_PAGES = 496
MAX_SIGSTRUCT_PAGES = 1
MAX_CPUS = 255
HEADER_TYPE, HEADER_LENGTH, HEADER_VERSION = 6, 0xE1, 0x10000
INTEL = 0x8086
DEBUG = 1 << 31
SIGNED_FIRST, SIGNED_REST = slice(0, 128), slice(900, 2048)

_HEADER = struct.Struct("<10I")
_BODY = struct.Struct("<HQIBBHHHHHH6xHHBxH32x")
_BODY_AT = 948


@dataclass(frozen=True, slots=True)
class SeamSigstruct:
    """SEAM_SIGSTRUCT, 2048 bytes. ``raw`` is the whole; ``cpus`` are CPUID.1.EAX values with the stepping as 0."""

    module_type: int
    vendor: int
    date: int
    modulus: bytes
    exponent: int
    signature: bytes
    seam_hash: bytes
    seam_svn: int
    attributes: int
    max_tdmrs: int
    module_hv: int
    min_update_hv: int
    no_downgrade: int
    handoff_pages: int
    cpus: tuple[int, ...]
    raw: bytes

    @property
    def debug(self) -> bool:
        """Whether it signs a debug module, whose TDs are not protected."""
        return bool(self.module_type & DEBUG)

    @property
    def date_text(self) -> str:
        """``2025-02-19``: the field is binary-coded decimal."""
        text = f"{self.date:08x}"
        return f"{text[:4]}-{text[4:6]}-{text[6:]}"

    @property
    def signed(self) -> bytes:
        """The bytes that the signature covers."""
        return self.raw[SIGNED_FIRST] + self.raw[SIGNED_REST]

    @classmethod
    def from_bytes(cls, data: bytes) -> SeamSigstruct:
        """Read 2048 bytes.

        Raises:
            WireError: of another size, header or vendor, or with too many CPUs.
        """
        name = "SEAM_SIGSTRUCT"
        if len(data) != SIGSTRUCT_SIZE:
            raise WireError(name, "size", 0, f"{len(data)} bytes, not {SIGSTRUCT_SIZE}")
        kind, length, version, module_type, vendor, date, *_ = _HEADER.unpack_from(data)
        if (kind, length, version) != (HEADER_TYPE, HEADER_LENGTH, HEADER_VERSION):
            raise WireError(name, "HEADER", 0, f"{kind:#x}, {length:#x}, {version:#x}")
        if vendor != INTEL:
            raise WireError(name, "MODULE_VENDOR", 16, f"{vendor:#x}")
        svn, attributes, _, _, _, _, _, tdmrs, _, _, _, hv, min_hv, no_downgrade, handoff = _BODY.unpack_from(
            data, _BODY_AT
        )
        (count,) = struct.unpack_from("<I", data, 1024)
        if count > MAX_CPUS:
            raise WireError(name, "CPUID_TABLE_SIZE", 1024, f"{count}, at most {MAX_CPUS}")
        return cls(
            module_type=module_type,
            vendor=vendor,
            date=date,
            modulus=data[128:512],
            exponent=int.from_bytes(data[512:516], "little"),
            signature=data[516:900],
            seam_hash=data[900:948],
            seam_svn=svn,
            attributes=attributes,
            max_tdmrs=tdmrs,
            module_hv=hv,
            min_update_hv=min_hv,
            no_downgrade=no_downgrade,
            handoff_pages=handoff,
            cpus=struct.unpack_from(f"<{count}I", data, 1028),
            raw=bytes(data),
        )

    def to_bytes(self) -> bytes:
        return self.raw


class BlobVersion(IntEnum):
    """Version of the blob's header."""

    ONE = 0x100
    TWO = 0x200


@dataclass(frozen=True, slots=True)
class TdxBlob:
    """A module with its signature structure. ``version`` says which header it has or will get."""

    version: BlobVersion
    sigstruct: SeamSigstruct
    module: bytes

    @classmethod
    def from_bytes(cls, data: bytes) -> TdxBlob:
        """Read a blob of either version.

        Raises:
            WireError: no such blob: signature, checksum, lengths, reserved bytes.
        """
        name = "TDX-BLOB"
        if len(data) < 3 * PAGE or len(data) % PAGE:
            raise WireError(name, "length", 0, f"{len(data)} bytes: not whole pages, or fewer than three")
        number = int.from_bytes(data[:2], "little")
        if number not in tuple(BlobVersion):
            raise WireError(name, "version", 0, f"{number:#x}")
        version = BlobVersion(number)
        start = _module_start(data) if version is BlobVersion.ONE else _module_start_2(data)
        if not 0 < len(data) - start <= MAX_MODULE_PAGES * PAGE:
            raise WireError(name, "module", start, f"{len(data) - start} bytes, at most {MAX_MODULE_PAGES} pages")
        if any(data[PAGE + SIGSTRUCT_SIZE : start]):
            raise WireError(name, "reserved", PAGE + SIGSTRUCT_SIZE, "not zero")
        if version is BlobVersion.ONE and sum16(data):
            raise WireError(name, "checksum", 2, "the sum of all 16-bit words is not zero")
        return cls(version, SeamSigstruct.from_bytes(data[PAGE : PAGE + SIGSTRUCT_SIZE]), data[start:])

    def to_bytes(self) -> bytes:
        """The blob, its checksum set."""
        if self.version is BlobVersion.ONE:
            length = 2 * PAGE + len(self.module)
            header = struct.pack("<HHI8sI", self.version, 0, 2 * PAGE, b"TDX-BLOB", length)
        else:
            header = struct.pack("<HH8sII", self.version, 0, b"TDX-BLOB", 1, len(self.module) // PAGE)
        body = header.ljust(PAGE, b"\0") + self.sigstruct.raw.ljust(PAGE, b"\0") + self.module
        checksum = -sum16(body) & 0xFFFF
        return body[:2] + checksum.to_bytes(2, "little") + body[4:]


def _module_start(data: bytes) -> int:
    offset, mark, length = struct.unpack_from("<I8sI", data, 4)
    if mark != b"TDX-BLOB":
        raise WireError("TDX-BLOB", "signature", 8, repr(mark))
    if length != len(data):
        raise WireError("TDX-BLOB", "length", 16, f"{length}, the file has {len(data)}")
    if not 2 * PAGE <= offset < len(data) or offset % PAGE:
        raise WireError("TDX-BLOB", "offset_of_module", 4, f"{offset:#x}")
    _zero(data, 20)
    return int(offset)


def _module_start_2(data: bytes) -> int:
    mark, sigstruct_pages, module_pages = struct.unpack_from("<8sII", data, 4)
    if mark != b"TDX-BLOB":
        raise WireError("TDX-BLOB", "signature", 4, repr(mark))
    if not 1 <= sigstruct_pages <= MAX_SIGSTRUCT_PAGES:
        raise WireError("TDX-BLOB", "sigstruct_nr_pages", 12, str(sigstruct_pages))
    if PAGE * (1 + sigstruct_pages + module_pages) != len(data):
        raise WireError("TDX-BLOB", "module_nr_pages", 16, f"{module_pages} in a file of {len(data)} bytes")
    _zero(data, 20)
    return PAGE * (1 + int(sigstruct_pages))


def _zero(data: bytes, start: int) -> None:
    if any(data[start:PAGE]):
        raise WireError("TDX-BLOB", "reserved", start, "not zero")


def sum16(data: bytes) -> int:
    """Sum of the little-endian 16-bit words, modulo 2**16. ``data`` has an even length."""
    return (sum(data[::2]) + (sum(data[1::2]) << 8)) & 0xFFFF

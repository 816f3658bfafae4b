"""Messages of Intel's Quote Generation Service (QGS), read and written.

Source: Intel SGX/TDX DCAP, ``qgs_msg_lib.h``. Each message starts with a 16-byte little-endian header
``{major u16, minor u16, type u32, size u32 (header included), error_code u32}``. On a stream each message has a
4-byte big-endian length in front (:func:`frame`, :func:`frame_length`). In *raw mode* a client sends a bare
1024-byte TDREPORT without length and gets a bare quote: see :func:`is_raw_report`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import ClassVar

from tdxstack.errors import WireError

MAJOR_VERSION = 1
MINOR_VERSION = 1
DEFAULT_SOCKET = "/var/run/tdx-qgs/qgs.socket"

TDREPORT_SIZE = 1024
QE_ID_SIZE = 16
#: Key id of TDX attestation with ECDSA P-256 quotes (``TDX_QE`` UUID of libtdx_attest).
TDX_QE_ID = bytes.fromhex("e86c046e8cc44d958173fc43c1fa4f3f")

#: Limits. A request is at most one report and a list of key ids; a response carries a quote or collateral.
MAX_REQUEST = 64 * 1024
MAX_MESSAGE = 1 << 20

_FRAME = struct.Struct(">I")
_HEADER = struct.Struct("<HHIII")
HEADER_SIZE = _HEADER.size
FRAME_SIZE = _FRAME.size


class MessageType(IntEnum):
    """``qgs_msg_type_t``."""

    GET_QUOTE_REQ = 0
    GET_QUOTE_RESP = 1
    GET_COLLATERAL_REQ = 2
    GET_COLLATERAL_RESP = 3
    GET_PLATFORM_INFO_REQ = 4
    GET_PLATFORM_INFO_RESP = 5


class QgsError(IntEnum):
    """``qgs_msg_error_t``: what a response's error_code says. Codes not listed are passed on as they are."""

    SUCCESS = 0
    UNEXPECTED = 0x00012001
    OUT_OF_MEMORY = 0x00012002
    INVALID_PARAMETER = 0x00012003
    INVALID_VERSION = 0x00012004
    INVALID_TYPE = 0x00012005
    INVALID_SIZE = 0x00012006
    INVALID_CODE = 0x00012007


@dataclass(frozen=True, slots=True)
class Header:
    """The 16 bytes in front of every message. ``size`` includes them."""

    major_version: int
    minor_version: int
    type: int
    size: int
    error_code: int

    @classmethod
    def from_bytes(cls, data: bytes) -> Header:
        """Read a header; its values are not judged.

        Raises:
            WireError: fewer than 16 bytes.
        """
        if len(data) < HEADER_SIZE:
            raise WireError("qgs_msg_header_t", "size", 8, f"{len(data)} bytes, a header has {HEADER_SIZE}")
        return cls(*_HEADER.unpack_from(data))


@dataclass(frozen=True, slots=True)
class GetQuoteRequest:
    """Type 0: a TDREPORT to be turned into a quote, and the key ids that the caller accepts (may be empty)."""

    TYPE: ClassVar = MessageType.GET_QUOTE_REQ
    report: bytes
    id_list: tuple[bytes, ...] = ()
    minor_version: int = MINOR_VERSION

    def to_bytes(self) -> bytes:
        ids = b"".join(self.id_list)
        body = struct.pack("<II", len(self.report), len(ids)) + self.report + ids
        return _message(self.TYPE, body, minor=self.minor_version)

    @classmethod
    def decode(cls, header: Header, data: bytes) -> GetQuoteRequest:
        report, ids = _split("qgs_msg_get_quote_req_t", data, HEADER_SIZE, 2)
        if not report:
            raise WireError("qgs_msg_get_quote_req_t", "report_size", 16, "no report")
        if len(ids) % QE_ID_SIZE:
            raise WireError("qgs_msg_get_quote_req_t", "id_list_size", 20, f"{len(ids)} is not a multiple of 16")
        chunks = tuple(ids[start : start + QE_ID_SIZE] for start in range(0, len(ids), QE_ID_SIZE))
        return cls(report, chunks, header.minor_version)


@dataclass(frozen=True, slots=True)
class GetQuoteResponse:
    """Type 1: the quote and the id of the key that signed it; both empty in an error."""

    TYPE: ClassVar = MessageType.GET_QUOTE_RESP
    quote: bytes = b""
    selected_id: bytes = b""
    error_code: int = 0

    def to_bytes(self) -> bytes:
        body = struct.pack("<II", len(self.selected_id), len(self.quote)) + self.selected_id + self.quote
        return _message(self.TYPE, body, error=self.error_code)

    @classmethod
    def decode(cls, header: Header, data: bytes) -> GetQuoteResponse:
        selected, quote = _split("qgs_msg_get_quote_resp_t", data, HEADER_SIZE, 2)
        return cls(quote, selected, header.error_code)


@dataclass(frozen=True, slots=True)
class GetCollateralRequest:
    """Type 2: collateral for one FMSPC (6 bytes) under one PCK CA (``platform`` or ``processor``)."""

    TYPE: ClassVar = MessageType.GET_COLLATERAL_REQ
    fmspc: bytes
    pck_ca: str
    minor_version: int = MINOR_VERSION

    def to_bytes(self) -> bytes:
        authority = self.pck_ca.encode()
        body = struct.pack("<II", len(self.fmspc), len(authority)) + self.fmspc + authority
        return _message(self.TYPE, body, minor=self.minor_version)

    @classmethod
    def decode(cls, header: Header, data: bytes) -> GetCollateralRequest:
        name = "qgs_msg_get_collateral_req_t"
        fmspc, authority = _split(name, data, HEADER_SIZE, 2)
        if not fmspc or not authority:
            raise WireError(name, "fsmpc_size", 16, "FMSPC and CA must not be empty")
        try:
            text = authority.rstrip(b"\0").decode("ascii")
        except UnicodeDecodeError:
            raise WireError(name, "pckca", HEADER_SIZE + 8 + len(fmspc), "not ASCII") from None
        return cls(fmspc, text, header.minor_version)


@dataclass(frozen=True, slots=True)
class GetCollateralResponse:
    """Type 3: the parts of ``tdx_ql_qve_collateral_t``, in the order of the message; all empty in an error.

    ``for_minor`` is the minor version of the request: Intel's library adds four bytes for minor 0.
    """

    TYPE: ClassVar = MessageType.GET_COLLATERAL_RESP
    major_version: int = 0
    minor_version: int = 0
    pck_crl_issuer_chain: bytes = b""
    root_ca_crl: bytes = b""
    pck_crl: bytes = b""
    tcb_info_issuer_chain: bytes = b""
    tcb_info: bytes = b""
    qe_identity_issuer_chain: bytes = b""
    qe_identity: bytes = b""
    error_code: int = 0
    for_minor: int = MINOR_VERSION

    @property
    def parts(self) -> tuple[bytes, ...]:
        """The seven parts in the order of the message."""
        return tuple(getattr(self, field.name) for field in fields(self)[2:9])

    def to_bytes(self) -> bytes:
        body = struct.pack("<HH7I", self.major_version, self.minor_version, *map(len, self.parts))
        tail = bytes(4) if self.for_minor == 0 and not self.error_code else b""
        return _message(self.TYPE, body + b"".join(self.parts) + tail, error=self.error_code)

    @classmethod
    def decode(cls, header: Header, data: bytes) -> GetCollateralResponse:
        name = "qgs_msg_get_collateral_resp_t"
        if len(data) < HEADER_SIZE + 4:
            raise WireError(name, "major_version", HEADER_SIZE, "message ends")
        major, minor = struct.unpack_from("<HH", data, HEADER_SIZE)
        padded = data.endswith(bytes(4)) and _declared(name, data, HEADER_SIZE + 4, 7) + 4 == len(data)
        parts = _split(name, data[:-4] if padded else data, HEADER_SIZE + 4, 7)
        crl_chain, root_crl, pck_crl, tcb_chain, tcb_info, qe_chain, qe_identity = parts
        for_minor = 0 if padded else MINOR_VERSION
        return cls(
            major,
            minor,
            crl_chain,
            root_crl,
            pck_crl,
            tcb_chain,
            tcb_info,
            qe_chain,
            qe_identity,
            header.error_code,
            for_minor,
        )


@dataclass(frozen=True, slots=True)
class GetPlatformInfoRequest:
    """Type 4: asks for the SVNs and ids of the platform."""

    TYPE: ClassVar = MessageType.GET_PLATFORM_INFO_REQ
    minor_version: int = MINOR_VERSION

    def to_bytes(self) -> bytes:
        return _message(self.TYPE, b"", minor=self.minor_version)

    @classmethod
    def decode(cls, header: Header, data: bytes) -> GetPlatformInfoRequest:
        if len(data) != HEADER_SIZE:
            raise WireError("qgs_msg_get_platform_info_req_t", "size", 8, f"{len(data)} bytes, not {HEADER_SIZE}")
        return cls(header.minor_version)


@dataclass(frozen=True, slots=True)
class GetPlatformInfoResponse:
    """Type 5: SVNs of the TD quoting enclave and of the PCE, platform id and CPUSVN; empty in an error."""

    TYPE: ClassVar = MessageType.GET_PLATFORM_INFO_RESP
    tdqe_isvsvn: int = 0
    pce_isvsvn: int = 0
    platform_id: bytes = b""
    cpusvn: bytes = b""
    error_code: int = 0

    def to_bytes(self) -> bytes:
        body = struct.pack("<HHII", self.tdqe_isvsvn, self.pce_isvsvn, len(self.platform_id), len(self.cpusvn))
        return _message(self.TYPE, body + self.platform_id + self.cpusvn, error=self.error_code)

    @classmethod
    def decode(cls, header: Header, data: bytes) -> GetPlatformInfoResponse:
        name = "qgs_msg_get_platform_info_resp_t"
        if len(data) < HEADER_SIZE + 4:
            raise WireError(name, "tdqe_isvsvn", HEADER_SIZE, "message ends")
        tdqe, pce = struct.unpack_from("<HH", data, HEADER_SIZE)
        platform_id, cpusvn = _split(name, data, HEADER_SIZE + 4, 2)
        return cls(tdqe, pce, platform_id, cpusvn, header.error_code)


Request = GetQuoteRequest | GetCollateralRequest | GetPlatformInfoRequest
Response = GetQuoteResponse | GetCollateralResponse | GetPlatformInfoResponse
Message = Request | Response

_TYPES: dict[int, type[Message]] = {
    kind.TYPE: kind
    for kind in (
        GetQuoteRequest,
        GetQuoteResponse,
        GetCollateralRequest,
        GetCollateralResponse,
        GetPlatformInfoRequest,
        GetPlatformInfoResponse,
    )
}


def parse(data: bytes) -> Message:
    """Read one message (without its stream length).

    Checks in the order of Intel's ``qgs_msg_inflate_*``: major version, type, size, error code of a request.

    Raises:
        WireError: ``field`` is ``major_version``, ``type``, ``size``, ``error_code`` or a field of the body.
    """
    header = Header.from_bytes(data)
    if header.major_version != MAJOR_VERSION:
        raise WireError("qgs_msg_header_t", "major_version", 0, f"{header.major_version}, not {MAJOR_VERSION}")
    kind = _TYPES.get(header.type)
    if kind is None:
        raise WireError("qgs_msg_header_t", "type", 4, f"{header.type} is not a message type")
    if header.size != len(data) or header.size > MAX_MESSAGE:
        raise WireError("qgs_msg_header_t", "size", 8, f"says {header.size}, {len(data)} bytes are there")
    if header.error_code and header.type in (0, 2, 4):
        raise WireError("qgs_msg_header_t", "error_code", 12, f"{header.error_code:#x} in a request")
    return kind.decode(header, data)


def error_response(request_type: int, error_code: int) -> bytes:
    """The answer that says no: a response of the type that belongs to the request, all its parts empty.

    A request type that is not known is answered as if it had asked for a quote.
    """
    if request_type in (MessageType.GET_COLLATERAL_REQ, MessageType.GET_COLLATERAL_RESP):
        return GetCollateralResponse(error_code=error_code).to_bytes()
    if request_type in (MessageType.GET_PLATFORM_INFO_REQ, MessageType.GET_PLATFORM_INFO_RESP):
        return GetPlatformInfoResponse(error_code=error_code).to_bytes()
    return GetQuoteResponse(error_code=error_code).to_bytes()


_ERRORS_BY_FIELD = {
    "major_version": QgsError.INVALID_VERSION,
    "type": QgsError.INVALID_TYPE,
    "error_code": QgsError.INVALID_CODE,
}


def error_code_of(error: WireError) -> QgsError:
    """The code with which a server answers a request that :func:`parse` refused."""
    return _ERRORS_BY_FIELD.get(error.field, QgsError.INVALID_SIZE)


def frame(message: bytes) -> bytes:
    """Put the stream's 4-byte big-endian length in front of a message."""
    return _FRAME.pack(len(message)) + message


def frame_length(prefix: bytes, *, limit: int = MAX_MESSAGE) -> int:
    """Length of the message that follows a 4-byte prefix.

    Raises:
        WireError: shorter than a header or longer than ``limit``.
    """
    if len(prefix) < FRAME_SIZE:
        raise WireError("QGS_FRAME", "length", 0, f"{len(prefix)} bytes, a length has {FRAME_SIZE}")
    length: int = _FRAME.unpack_from(prefix)[0]
    if not HEADER_SIZE <= length <= limit:
        raise WireError("QGS_FRAME", "length", 0, f"{length} is not within {HEADER_SIZE}..{limit}")
    return length


def unframe(data: bytes) -> bytes:
    """Take the stream length off exactly one framed message.

    Raises:
        WireError: the length is not that of what follows.
    """
    length = frame_length(data)
    if length != len(data) - FRAME_SIZE:
        raise WireError("QGS_FRAME", "length", 0, f"says {length}, {len(data) - FRAME_SIZE} bytes follow")
    return data[FRAME_SIZE:]


def is_raw_report(start: bytes) -> bool:
    """Whether the first bytes (4 or more) of a connection are a bare TDREPORT rather than a framed message.

    REPORTTYPE begins 0x81 (TDX), subtype 0 or 1, version 0, 1 or 3, reserved 0; read as a length this is above
    2 GiB, which no message has.
    """
    return len(start) >= 4 and start[0] == 0x81 and start[1] in (0, 1) and start[2] in (0, 1, 3) and start[3] == 0


def _message(kind: MessageType, body: bytes, *, minor: int = MINOR_VERSION, error: int = 0) -> bytes:
    return _HEADER.pack(MAJOR_VERSION, minor, kind, HEADER_SIZE + len(body), error) + body


def _declared(structure: str, data: bytes, offset: int, count: int) -> int:
    """Bytes that a message has by its own account: up to and including its ``count`` parts."""
    start = offset + 4 * count
    if len(data) < start:
        raise WireError(structure, "sizes", offset, f"{count} sizes need {start} bytes, {len(data)} are there")
    sizes: tuple[int, ...] = struct.unpack_from(f"<{count}I", data, offset)
    return start + sum(sizes)


def _split(structure: str, data: bytes, offset: int, count: int) -> list[bytes]:
    """Cut ``count`` parts whose u32 sizes stand at ``offset``; they must fill the message exactly."""
    declared = _declared(structure, data, offset, count)
    if declared != len(data):
        raise WireError(structure, "sizes", offset, f"parts end at {declared}, the message at {len(data)}")
    parts: list[bytes] = []
    start = offset + 4 * count
    for size in struct.unpack_from(f"<{count}I", data, offset):
        parts.append(data[start : start + size])
        start += size
    return parts

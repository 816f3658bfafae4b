"""Frames of the software TD channel: how a guest's device emulation reaches the TDX module model.

A virtio-serial port named :data:`PORT` carries, both ways::

    u32 length of what follows | u16 kind | u16 zero | u64 value | payload        (little-endian)

In a request ``value`` is the leaf (:class:`Leaf`); in a response it is the TDX module's 64-bit completion
status (0 is TDX_SUCCESS). One request is outstanding at a time. Leaf numbers are those of the Intel TDX Module
ABI specification for TDG.* functions; numbers from 0x53544458_00000001 exist on a software platform only.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum

from tdxstack.errors import WireError

PORT = "org.tdxstack.tdx.0"
DEVICE = f"/dev/virtio-ports/{PORT}"

#: Largest payload of one frame, in bytes.
MAX_PAYLOAD = 1 << 20

STRUCTURE = "TDX_CHANNEL_FRAME"
_LENGTH = struct.Struct("<I")
_HEADER = struct.Struct("<HHQ")
_MAX_LENGTH = _HEADER.size + MAX_PAYLOAD


class FrameKind(IntEnum):
    """Direction of a frame."""

    REQUEST = 1
    RESPONSE = 2


class Leaf(IntEnum):
    """What a request may ask for, with the shapes of its payload and answer."""

    #: u64 sub-function (0x10002 GetQuote) + shared buffer -> the shared buffer after the call.
    VP_VMCALL = 0
    #: u64 index + 48-byte SHA-384 digest -> empty.
    MR_RTMR_EXTEND = 2
    #: 64-byte REPORTDATA -> 1024-byte TDREPORT_STRUCT.
    MR_REPORT = 4
    #: empty -> TCG_PCR_EVENT2 records (SHA-384 only) that TDVF logs only inside a TD.
    SOFTWARE_CC_EVENTS = 0x5354445800000001
    #: empty -> MRTD and RTMR0..3, 240 bytes.
    SOFTWARE_MEASUREMENTS = 0x5354445800000002


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame. ``value`` is the leaf of a request or the completion status of a response."""

    kind: FrameKind
    value: int
    payload: bytes = b""

    def to_bytes(self) -> bytes:
        """Encode, with the length in front.

        Raises:
            WireError: the payload is larger than MAX_PAYLOAD.
        """
        if len(self.payload) > MAX_PAYLOAD:
            raise WireError(STRUCTURE, "length", 0, f"payload of {len(self.payload)} bytes, at most {MAX_PAYLOAD}")
        body = _HEADER.pack(self.kind, 0, self.value) + self.payload
        return _LENGTH.pack(len(body)) + body

    @classmethod
    def from_bytes(cls, data: bytes) -> Frame:
        """Decode exactly one frame.

        Raises:
            WireError: not one whole frame.
        """
        reader = FrameReader()
        frames = reader.feed(data)
        if len(frames) != 1 or reader.pending:
            raise WireError(STRUCTURE, "length", 0, f"{len(data)} bytes hold {len(frames)} frames and a rest")
        return frames[0]


def request(leaf: int, payload: bytes = b"") -> Frame:
    """A request for ``leaf``."""
    return Frame(FrameKind.REQUEST, leaf, payload)


def response(status: int, payload: bytes = b"") -> Frame:
    """The answer to a request, with the module's completion status."""
    return Frame(FrameKind.RESPONSE, status, payload)


@dataclass(slots=True)
class FrameReader:
    """Cuts a byte stream into frames; never holds more than one frame's worth of bytes that are not yet whole."""

    _buffer: bytearray = field(default_factory=bytearray)

    @property
    def pending(self) -> int:
        """Bytes received that do not make a whole frame yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Frame]:
        """Take bytes as they arrived; return the frames that are now whole.

        Raises:
            WireError: a length, kind or reserved field that no frame has. The stream is lost then: close it.
        """
        self._buffer += data
        frames: list[Frame] = []
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if not _HEADER.size <= length <= _MAX_LENGTH:
                raise WireError(STRUCTURE, "length", 0, f"{length} is not within {_HEADER.size}..{_MAX_LENGTH}")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                break
            frames.append(_decode(bytes(self._buffer[_LENGTH.size : end])))
            del self._buffer[:end]
        return frames


def _decode(body: bytes) -> Frame:
    kind, zero, value = _HEADER.unpack_from(body)
    if kind not in (FrameKind.REQUEST, FrameKind.RESPONSE):
        raise WireError(STRUCTURE, "kind", 4, f"{kind} is neither a request (1) nor a response (2)")
    if zero:
        raise WireError(STRUCTURE, "reserved", 6, f"{zero:#x} is not zero")
    return Frame(FrameKind(kind), value, body[_HEADER.size :])

"""TPM 2.0 commands as far as they extend PCRs: which PCR gets which digests.

Source: TCG TPM 2.0 Library, part 1 section 18 (command and response structure) and part 3: TPM2_PCR_Extend carries
the digests; TPM2_PCR_Event and TPM2_EventSequenceComplete have the TPM hash, and the response carries the digests.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from tdxstack.errors import WireError
from tdxstack.wire.tcg import DIGEST_SIZES, Digest

HEADER_SIZE = 10
#: No command or response is longer; TPMs of PCs take 4096 bytes.
MAX_MESSAGE = 64 * 1024
PCR_COUNT = 24
_MAX_DIGESTS = 16

_HEADER = struct.Struct(">HII")
_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")


class Tag(IntEnum):
    """TPM_ST: whether sessions (authorisations) follow."""

    NO_SESSIONS = 0x8001
    SESSIONS = 0x8002


class CommandCode(IntEnum):
    """TPM_CC of the commands that extend PCRs."""

    PCR_EVENT = 0x0000013C
    PCR_EXTEND = 0x00000182
    EVENT_SEQUENCE_COMPLETE = 0x00000185


@dataclass(frozen=True, slots=True)
class Extend:
    """One PCR extended by one digest per bank."""

    pcr: int
    digests: tuple[Digest, ...]

    def digest(self, algorithm: int) -> bytes | None:
        """The digest of one bank, or None."""
        return next((value for known, value in self.digests if known == algorithm), None)


def message_size(start: bytes) -> int | None:
    """Size of the command or response that begins with ``start``; None if fewer than 10 bytes are there.

    Raises:
        WireError: a size that no message has.
    """
    if len(start) < HEADER_SIZE:
        return None
    size: int = _HEADER.unpack_from(start)[1]
    if not HEADER_SIZE <= size <= MAX_MESSAGE:
        raise WireError("TPM2 header", "size", 2, f"{size} is not within {HEADER_SIZE}..{MAX_MESSAGE}")
    return size


def command_code(command: bytes) -> int:
    """TPM_CC of a command.

    Raises:
        WireError: shorter than a header.
    """
    if len(command) < HEADER_SIZE:
        raise WireError("TPM2 command", "header", 0, f"{len(command)} bytes")
    code: int = _HEADER.unpack_from(command)[2]
    return code


def extend_of(command: bytes, response: bytes) -> Extend | None:
    """What a command and its response did to a PCR; None if nothing, or if the TPM refused.

    Args:
        command: a whole command.
        response: the whole response to it.

    Raises:
        WireError: the TPM says that it extended, but the digests cannot be read.
    """
    code = command_code(command)
    if code not in (CommandCode.PCR_EXTEND, CommandCode.PCR_EVENT, CommandCode.EVENT_SEQUENCE_COMPLETE):
        return None
    tag, _, result = _HEADER.unpack_from(response) if len(response) >= HEADER_SIZE else (0, 0, 1)
    if result:
        return None
    pcr = _read(_U32, command, HEADER_SIZE, "pcrHandle")
    if pcr >= PCR_COUNT:
        return None
    if code == CommandCode.PCR_EXTEND:
        size = _read(_U32, command, HEADER_SIZE + 4, "authorizationSize")
        return Extend(pcr, _digests(command, HEADER_SIZE + 8 + size))
    # The response: header, parameterSize if there are sessions, TPML_DIGEST_VALUES.
    start = HEADER_SIZE + (4 if tag == Tag.SESSIONS else 0)
    return Extend(pcr, _digests(response, start))


def _read(code: struct.Struct, data: bytes, offset: int, field: str) -> int:
    if offset + code.size > len(data):
        raise WireError("TPM2 message", field, offset, f"message ends at {len(data)}")
    value: int = code.unpack_from(data, offset)[0]
    return value


def _digests(data: bytes, offset: int) -> tuple[Digest, ...]:
    """TPML_DIGEST_VALUES at ``offset``."""
    count = _read(_U32, data, offset, "count")
    if count > _MAX_DIGESTS:
        raise WireError("TPML_DIGEST_VALUES", "count", offset, f"{count}, more than {_MAX_DIGESTS}")
    offset += 4
    found: list[Digest] = []
    for _ in range(count):
        algorithm = _read(_U16, data, offset, "hashAlg")
        size = DIGEST_SIZES.get(algorithm)
        if size is None:
            raise WireError("TPMT_HA", "hashAlg", offset, f"0x{algorithm:04x} has no known size")
        end = offset + 2 + size
        if end > len(data):
            raise WireError("TPMT_HA", "digest", offset + 2, f"message ends at {len(data)}")
        found.append(Digest(algorithm, data[offset + 2 : end]))
        offset = end
    return tuple(found)

"""UEFI variables by which a BIOS asks for the registration of a multi-package SGX platform.

Intel "SGX DCAP Multi-Package Software" (variables ``SgxRegistrationServerRequest``, ``SgxRegistrationStatus``,
``SgxRegistrationConfiguration``), as Linux shows them in efivarfs: four bytes of attributes, then the variable, which
begins with ``version u16`` and ``size u16`` (of what follows). All numbers are little-endian.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from tdxstack.errors import WireError
from tdxstack.wire.layout import Layout

#: Names in efivarfs.
SERVER_REQUEST = "SgxRegistrationServerRequest-304e0796-d515-4698-ac6e-e76cb1a71c28"
STATUS = "SgxRegistrationStatus-f236c5dc-a491-4bbe-bcdd-88885770df45"
CONFIGURATION = "SgxRegistrationConfiguration-18b3bc81-e210-42b9-9ec8-2c5a7d4d89b6"

#: A request has some kilobytes for each package.
MAX_REQUEST = 1 << 16
MAX_URL = 256

_HEADER = Layout("SgxUefiVar", attributes="I", version="H", size="H")
_STRUCTURE = Layout("StructureHeader", guid="16s", size="H", version="H", reserved="12s")
_STATUS_BODY = Layout("RegistrationStatusUEFI", status="H", error_code="B")
_CONFIGURATION_BODY = Layout(
    "ConfigurationUEFI", flags="H", guid="16s", info_size="H", info_version="H", reserved="12s", url_size="H"
)


class RequestType(IntEnum):
    """What a request asks the registration service for."""

    PLATFORM = 1
    ADD_PACKAGE = 2


_REQUESTS = {
    bytes.fromhex("178e874b49e44aa599bb3057170925b4"): RequestType.PLATFORM,
    bytes.fromhex("696519ca73c14785a0f64d289d37e995"): RequestType.ADD_PACKAGE,
}


class StatusFlag(IntFlag):
    """Bits of ``RegistrationStatusUEFI.status``."""

    REGISTRATION_COMPLETE = 1
    PACKAGE_INFO_COMPLETE = 2


class ConfigurationFlag(IntFlag):
    """Bits of ``ConfigurationUEFI.flags``."""

    #: The registration service shall not keep the platform's keys: register indirectly.
    DO_NOT_SAVE_KEYS = 1


@dataclass(frozen=True, slots=True)
class ServerRequest:
    """A request that waits to be sent. ``data`` is the platform manifest or add-package request, as it is sent."""

    type: RequestType
    data: bytes
    version: int = 2
    attributes: int = 7

    @classmethod
    def from_bytes(cls, data: bytes) -> ServerRequest:
        """Read ``SgxRegistrationServerRequest``. Raises WireError."""
        attributes, version, size = _header(data, "SgxRegistrationServerRequest", MAX_REQUEST)
        guid, inner, _, _ = _STRUCTURE.unpack(data, _HEADER.size)
        at = _HEADER.size
        if guid not in _REQUESTS:
            raise WireError("SgxRegistrationServerRequest", "guid", at, f"{uuid.UUID(bytes=guid)} is no request")
        if _STRUCTURE.size + inner > size:
            raise WireError(
                "StructureHeader", "size", at + _STRUCTURE.offsets["size"], f"{inner} exceeds the variable"
            )
        return cls(_REQUESTS[guid], data[at : at + size], version, attributes)

    def to_bytes(self) -> bytes:
        """The variable as efivarfs shows it."""
        return _HEADER.pack(self.attributes, self.version, len(self.data)) + self.data


@dataclass(frozen=True, slots=True)
class RegistrationStatus:
    """How far the registration is. ``error_code`` is that of the registration agent, 0 if all is well."""

    flags: StatusFlag
    error_code: int
    version: int = 1
    attributes: int = 7

    @property
    def complete(self) -> bool:
        """Whether the platform is registered."""
        return bool(self.flags & StatusFlag.REGISTRATION_COMPLETE) and self.error_code == 0

    @classmethod
    def from_bytes(cls, data: bytes) -> RegistrationStatus:
        """Read ``SgxRegistrationStatus``. Raises WireError."""
        attributes, version, _ = _header(data, "SgxRegistrationStatus", 64)
        status, error_code = _STATUS_BODY.unpack(data, _HEADER.size)
        return cls(StatusFlag(status), error_code, version, attributes)

    def to_bytes(self) -> bytes:
        """The variable as efivarfs shows it."""
        body = _STATUS_BODY.pack(int(self.flags), self.error_code)
        return _HEADER.pack(self.attributes, self.version, len(body)) + body


@dataclass(frozen=True, slots=True)
class RegistrationConfiguration:
    """Where the BIOS wants the platform to be registered."""

    flags: ConfigurationFlag
    url: str

    @classmethod
    def from_bytes(cls, data: bytes) -> RegistrationConfiguration:
        """Read ``SgxRegistrationConfiguration``. Raises WireError."""
        _header(data, "SgxRegistrationConfiguration", 4096)
        flags, _, _, _, _, url_size = _CONFIGURATION_BODY.unpack(data, _HEADER.size)
        at = _HEADER.size + _CONFIGURATION_BODY.size
        if url_size > MAX_URL or at + url_size > len(data):
            raise WireError("ConfigurationUEFI", "url_size", at - 2, f"{url_size} exceeds {MAX_URL} or the variable")
        raw = data[at : at + url_size].rstrip(b"\0 ")
        try:
            return cls(ConfigurationFlag(flags), raw.decode("ascii"))
        except UnicodeDecodeError as error:
            raise WireError("ConfigurationUEFI", "url", at + error.start, "not ASCII") from None


def _header(data: bytes, structure: str, limit: int) -> tuple[int, int, int]:
    attributes, version, size = _HEADER.unpack(data)
    if version not in (1, 2):
        raise WireError(structure, "version", _HEADER.offsets["version"], f"{version} is not 1 or 2")
    have = len(data) - _HEADER.size
    if size > limit or size != have:
        raise WireError(structure, "size", _HEADER.offsets["size"], f"{size} where {have} bytes follow")
    return attributes, version, size

"""Registration variables: round trips, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import WireError
from tdxstack.wire.sgx_registration import (
    ConfigurationFlag,
    RegistrationConfiguration,
    RegistrationStatus,
    RequestType,
    ServerRequest,
    StatusFlag,
)

MANIFEST_GUID = bytes.fromhex("178e874b49e44aa599bb3057170925b4")
ADD_GUID = bytes.fromhex("696519ca73c14785a0f64d289d37e995")


def structure(guid: bytes, payload: bytes) -> bytes:
    return guid + len(payload).to_bytes(2, "little") + b"\1\0" + bytes(12) + payload


@given(st.binary(max_size=500), st.sampled_from([1, 2]), st.booleans())
def test_requests_go_round(payload: bytes, version: int, add: bool) -> None:
    kind = RequestType.ADD_PACKAGE if add else RequestType.PLATFORM
    request = ServerRequest(kind, structure(ADD_GUID if add else MANIFEST_GUID, payload), version)
    assert ServerRequest.from_bytes(request.to_bytes()) == request


@given(st.integers(0, 3), st.integers(0, 255))
def test_statuses_go_round(flags: int, error_code: int) -> None:
    status = RegistrationStatus(StatusFlag(flags), error_code)
    assert RegistrationStatus.from_bytes(status.to_bytes()) == status
    assert status.complete == (bool(flags & 1) and error_code == 0)


def test_the_bytes_of_a_status() -> None:
    status = RegistrationStatus.from_bytes(bytes.fromhex("0700000001000300010000"))
    assert status.complete
    assert not RegistrationStatus.from_bytes(bytes.fromhex("0700000001000300010085")).complete


def test_a_configuration() -> None:
    url = b"https://api.trustedservices.intel.com:443".ljust(48, b"\0")
    body = b"\1\0" + structure(bytes(16), b"") + len(url).to_bytes(2, "little") + url.ljust(256, b"\0")
    data = bytes(4) + b"\1\0" + len(body).to_bytes(2, "little") + body
    found = RegistrationConfiguration.from_bytes(data)
    assert found == RegistrationConfiguration(
        ConfigurationFlag.DO_NOT_SAVE_KEYS, "https://api.trustedservices.intel.com:443"
    )


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b"", "attributes"),
        (bytes(7), "size"),
        (bytes(4) + b"\3\0\0\0", "version"),
        (bytes(4) + b"\2\0\x21\0" + structure(MANIFEST_GUID, b""), "size"),
        (bytes(4) + b"\2\0\x20\0" + structure(bytes(16), b""), "guid"),
        (bytes(4) + b"\2\0\x20\0" + MANIFEST_GUID + b"\1\0\1\0" + bytes(12), "size"),
    ],
)
def test_requests_that_are_none(data: bytes, field: str) -> None:
    with pytest.raises(WireError) as caught:
        ServerRequest.from_bytes(data)
    assert caught.value.field == field


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for kind in (ServerRequest, RegistrationStatus, RegistrationConfiguration):
        try:
            kind.from_bytes(data)
        except WireError:
            continue

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import WireError
from tdxstack.wire.efi.signatures import CERT_SHA256, CERT_X509, Signature, SignatureList, read_lists


@st.composite
def lists(draw: st.DrawFn) -> SignatureList:
    size = draw(st.integers(1, 40))
    signatures = draw(st.lists(st.builds(Signature, st.uuids(), st.binary(min_size=size, max_size=size)), min_size=1))
    kind = draw(st.sampled_from([CERT_X509, CERT_SHA256]))
    return SignatureList(kind, tuple(signatures), draw(st.binary(max_size=8)))


@given(st.lists(lists(), max_size=4))
def test_round_trip(found: list[SignatureList]) -> None:
    assert list(read_lists(b"".join(one.to_bytes() for one in found))) == found


def test_one_list_has_one_size() -> None:
    from uuid import UUID

    with pytest.raises(WireError):
        SignatureList(CERT_X509, (Signature(UUID(int=1), b"a"), Signature(UUID(int=1), b"ab"))).to_bytes()


@given(st.binary(max_size=120))
def test_junk_raises_nothing_but_wire_errors(junk: bytes) -> None:
    try:
        read_lists(junk)
    except WireError as error:
        assert error.structure == "EFI_SIGNATURE_LIST"

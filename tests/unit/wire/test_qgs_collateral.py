from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import WireError
from tdxstack.wire.qgs import GetCollateralResponse
from tdxstack.wire.qgs_collateral import documents_of

SIGNATURE = "ab" * 64


def answer(**parts: bytes) -> GetCollateralResponse:
    whole: dict[str, Any] = {
        "pck_crl_issuer_chain": b"chain 1\0",
        "root_ca_crl": b"\x30\x01\x02",
        "pck_crl": b"300102\0",
        "tcb_info_issuer_chain": b"chain 2\0",
        "tcb_info": b'{"tcbInfo":{"a": 1},"signature":"%s"}\0' % SIGNATURE.encode(),
        "qe_identity_issuer_chain": b"chain 3\0",
        "qe_identity": b'{"enclaveIdentity":{},"signature":"%s"}\0' % SIGNATURE.encode(),
    }
    return GetCollateralResponse(3, 1, **{**whole, **parts})


def test_what_is_signed_stays_as_it_is() -> None:
    found = documents_of(answer())
    assert (found["tcb_info"], found["tcb_info_signature"]) == ('{"a": 1}', SIGNATURE)
    assert (found["root_ca_crl"], found["pck_crl"], found["pck_crl_issuer_chain"]) == ("300102", "300102", "chain 1")


@pytest.mark.parametrize(
    "tcb_info", [b"", b"{}", b'{"enclaveIdentity":{},"signature":"%s"}' % SIGNATURE.encode(), b"\xff"]
)
def test_documents_that_are_none(tcb_info: bytes) -> None:
    with pytest.raises(WireError, match="tcb_info"):
        documents_of(answer(tcb_info=tcb_info))


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_anything_is_read_or_refused(first: bytes, second: bytes) -> None:
    with contextlib.suppress(WireError):
        documents_of(answer(tcb_info=first, pck_crl=second))

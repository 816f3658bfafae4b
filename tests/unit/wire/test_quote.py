"""Quotes: real ones, the synthetic ones, and what hypothesis makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import WireError
from tdxstack.wire.quote import (
    BodyType,
    CertificationData,
    CertificationType,
    PckIdentity,
    QeCertification,
    Quote,
    QuoteHeader,
    QuoteSignature,
    TdExtension,
    TdReportBody,
    TeeType,
    unsigned_quote,
)
from tdxstack.wire.sgx_report import SgxReportBody

u8, u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 64))


def sized(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


b48 = sized(48)
sgx_bodies = st.builds(
    SgxReportBody,
    cpu_svn=sized(16),
    misc_select=u32,
    attributes=sized(16),
    mr_enclave=sized(32),
    mr_signer=sized(32),
    isv_prod_id=u16,
    isv_svn=u16,
    report_data=sized(64),
    isv_ext_prod_id=sized(16),
    config_id=sized(64),
    config_svn=u16,
    isv_family_id=sized(16),
    reserved1=sized(12),
    reserved2=sized(32),
    reserved3=sized(32),
    reserved4=sized(42),
)
extensions = st.builds(
    TdExtension,
    vm_id=u8,
    td_id=sized(32),
    device_info=b48,
    init_servtd_hash=b48,
    init_servtd_attributes=sized(8),
    init_cpu_svn=sized(16),
    init_tee_tcb_svn=sized(16),
    init_fmspc=sized(12),
    current_servtd_hash=b48,
    current_servtd_attributes=sized(8),
)


@st.composite
def td_bodies(draw: st.DrawFn, kinds: tuple[BodyType, ...] = tuple(BodyType)[1:]) -> TdReportBody:
    kind = draw(st.sampled_from(kinds))
    return TdReportBody(
        tee_tcb_svn=draw(sized(16)),
        mr_seam=draw(b48),
        mr_signer_seam=draw(b48),
        seam_attributes=draw(u64),
        td_attributes=draw(u64),
        xfam=draw(u64),
        mr_td=draw(b48),
        mr_config_id=draw(b48),
        mr_owner=draw(b48),
        mr_owner_config=draw(b48),
        rtmrs=draw(st.tuples(b48, b48, b48, b48)),
        report_data=draw(sized(64)),
        tee_tcb_svn2=draw(sized(16)) if kind >= BodyType.TDX_1_5 else None,
        mr_service_td=draw(b48) if kind >= BodyType.TDX_1_5 else None,
        extension=draw(extensions) if kind >= BodyType.TDX_1_5_EX else None,
    )


certifications = st.builds(
    CertificationData, type=st.sampled_from([1, 2, 3, 4, 5, 7, 9]), data=st.binary(max_size=64)
)
qe_certifications = st.builds(
    QeCertification,
    qe_report=sgx_bodies,
    qe_report_signature=sized(64),
    qe_auth_data=st.binary(max_size=40),
    certification=certifications,
)


@st.composite
def quotes(draw: st.DrawFn) -> Quote:
    version = draw(st.sampled_from([3, 4, 5]))
    tee_type = TeeType.SGX if version == 3 else draw(st.sampled_from(list(TeeType)))
    kinds = (BodyType.TDX_1_0,) if version == 4 else tuple(BodyType)[1:]
    inner = qe_certifications if version == 3 else st.one_of(qe_certifications, certifications)
    return Quote(
        QuoteHeader(version, tee_type, 2, draw(u16), draw(u16), draw(sized(16)), draw(sized(20))),
        draw(sgx_bodies) if tee_type is TeeType.SGX else draw(td_bodies(kinds)),
        QuoteSignature(draw(sized(64)), draw(sized(64)), draw(inner)),
        draw(st.binary(max_size=20)),
    )


@given(quotes())
def test_round_trip(quote: Quote) -> None:
    assert Quote.from_bytes(quote.to_bytes()) == quote
    assert quote.to_bytes().startswith(quote.signed_bytes())


@given(td_bodies())
def test_body_round_trip(body: TdReportBody) -> None:
    assert TdReportBody.from_bytes(body.to_bytes()) == body


@given(sgx_bodies)
def test_sgx_round_trip(body: SgxReportBody) -> None:
    assert SgxReportBody.from_bytes(body.to_bytes()) == body


@given(st.binary(max_size=3000))
def test_noise_raises_only_wire_error(data: bytes) -> None:
    with pytest.raises(WireError):
        Quote.from_bytes(data)


@given(quotes(), st.data())
def test_cut_or_changed_raises_only_wire_error(quote: Quote, data: st.DataObject) -> None:
    raw = bytearray(quote.to_bytes())
    for _ in range(3):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(u8)
    cut = bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        again = Quote.from_bytes(cut)
    except WireError as error:
        assert 0 <= error.offset <= len(cut)
    else:
        assert again.to_bytes() == cut


def test_real_quotes_round_trip(vectors: Path) -> None:
    files = sorted((vectors / "attestation" / "real").glob("*/quote.bin"))
    assert len(files) >= 7
    for file in files:
        raw = file.read_bytes()
        quote = Quote.from_bytes(raw)
        assert quote.to_bytes() == raw, file
        assert isinstance(quote.signature.certification, QeCertification)
        assert quote.signature.certification.certification.type == CertificationType.PCK_CHAIN


def test_real_quote_fields(vectors: Path) -> None:
    quote = Quote.from_bytes((vectors / "attestation" / "real" / "gotdx-v5" / "quote.bin").read_bytes())
    assert isinstance(quote.body, TdReportBody)
    assert (quote.header.version, quote.body_type) == (5, BodyType.TDX_1_5)
    assert quote.body.tee_tcb_svn2 != quote.body.tee_tcb_svn
    sgx = Quote.from_bytes((vectors / "attestation" / "real" / "dcapqvl-sgx-v3" / "quote.bin").read_bytes())
    assert isinstance(sgx.body, SgxReportBody)
    assert sgx.body_type is BodyType.SGX


#: Synthetic cases whose form a parser has to refuse (others break rules that only a verifier has).
UNREADABLE = {"extra_in_qe_cert_data", "tee1", "v5_btype1", "v5_btype9", "ver6"}


def test_synthetic_quotes(vectors: Path) -> None:
    refused = set()
    for folder in sorted((vectors / "attestation" / "synthetic").iterdir()):
        raw = (folder / "quote.bin").read_bytes()
        try:
            assert Quote.from_bytes(raw).to_bytes() == raw
        except WireError:
            refused.add(folder.name)
    assert refused == UNREADABLE


@pytest.mark.parametrize(("kind", "size"), [(1, 16), (2, 256), (3, 384)])
def test_pck_identity(kind: int, size: int) -> None:
    identity = PckIdentity(bytes(range(256))[:size].ljust(size, b"\1"), bytes(range(16)), 11, 0)
    assert CertificationData(kind, identity.to_bytes()).pck_identity() == identity
    with pytest.raises(WireError):
        CertificationData(kind, identity.to_bytes() + b"\0").pck_identity()
    with pytest.raises(WireError):
        CertificationData(5, identity.to_bytes()).pck_identity()


def test_version_4_cannot_carry_a_1_5_body(vectors: Path) -> None:
    quote = Quote.from_bytes((vectors / "attestation" / "real" / "gotdx-v5" / "quote.bin").read_bytes())
    with pytest.raises(WireError, match="version"):
        unsigned_quote(QuoteHeader(4), quote.body)
    with pytest.raises(WireError, match="tee_type"):
        unsigned_quote(QuoteHeader(5, TeeType.SGX), quote.body)

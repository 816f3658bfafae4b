"""TDREPORT_STRUCT: a real one, a false one, and round trips."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import WireError
from tdxstack.wire.quote import BodyType, TdReportBody
from tdxstack.wire.tdreport import (
    TDREPORT_SIZE,
    VALID_TDX_1_0,
    ReportType,
    ReportVersion,
    TdInfo,
    TdReport,
    TeeTcbInfo,
)


def sized(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


b48, u64, u32 = sized(48), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1)
modules = st.builds(
    TeeTcbInfo,
    tee_tcb_svn=sized(16),
    mr_seam=b48,
    mr_signer_seam=b48,
    attributes=u64,
    tee_tcb_svn2=sized(16),
    valid=u64,
    reserved=sized(95),
)
tds = st.builds(
    TdInfo,
    attributes=u64,
    xfam=u64,
    mr_td=b48,
    mr_config_id=b48,
    mr_owner=b48,
    mr_owner_config=b48,
    rtmrs=st.tuples(b48, b48, b48, b48),
    servtd_hash=b48,
    td_id=sized(32),
    vm_id=u32,
    valid=u32,
    reserved=sized(24),
)
types = st.builds(ReportType, subtype=st.integers(0, 255), version=st.sampled_from([0, 1, 3]))
reports = st.builds(
    TdReport,
    report_data=sized(64),
    tee_tcb_info=modules,
    td_info=tds,
    report_type=types,
    cpu_svn=sized(16),
    tee_tcb_info_hash=b48,
    tee_info_hash=b48,
    mac=sized(32),
    reserved1=sized(12),
    reserved2=sized(32),
    reserved3=sized(17),
)


@given(reports)
def test_round_trip(report: TdReport) -> None:
    raw = report.to_bytes()
    assert len(raw) == TDREPORT_SIZE
    assert TdReport.from_bytes(raw) == report
    assert TdReport.from_bytes(raw).to_bytes() == raw
    assert report.with_hashes().hashes_hold


@given(st.binary(max_size=1100))
def test_noise_raises_only_wire_error(data: bytes) -> None:
    try:
        assert TdReport.from_bytes(data).to_bytes() == data
    except WireError as error:
        assert error.offset <= TDREPORT_SIZE


def test_real_report(vectors: Path) -> None:
    raw = (vectors / "attestation" / "tdreport" / "tdreport_for_test.dat").read_bytes()
    report = TdReport.from_bytes(raw)
    assert report.to_bytes() == raw
    assert report.report_type.version == ReportVersion.TDX_1_0
    assert report.tee_tcb_info.valid == VALID_TDX_1_0
    assert report.hashes_hold
    assert len(report.mac_struct()) == 224
    changed = bytearray(raw)
    changed[530] ^= 1
    assert not TdReport.from_bytes(bytes(changed)).hashes_hold


def test_false_report_is_refused(vectors: Path) -> None:
    with pytest.raises(WireError):
        TdReport.from_bytes((vectors / "attestation" / "tdreport" / "not_a_tdreport.dat").read_bytes())


@pytest.mark.parametrize("kind", [BodyType.TDX_1_0, BodyType.TDX_1_5, BodyType.TDX_1_5_EX])
def test_body_of_a_quote(kind: BodyType) -> None:
    td = TdInfo(1, 2, b"m" * 48, td_id=b"t" * 32, vm_id=3, servtd_hash=b"s" * 48)
    report = TdReport(b"r" * 64, TeeTcbInfo(b"1" * 16, b"2" * 48, tee_tcb_svn2=b"3" * 16), td)
    body = TdReportBody.from_tdreport(report, kind)
    assert body.body_type is kind
    assert (body.report_data, body.mr_td, body.xfam) == (b"r" * 64, b"m" * 48, 2)
    assert body.tee_tcb_svn2 == (None if kind is BodyType.TDX_1_0 else b"3" * 16)
    assert (body.extension is not None) == (kind is BodyType.TDX_1_5_EX)


def test_wrong_lengths_are_refused_on_writing() -> None:
    module = TeeTcbInfo(bytes(16), bytes(47))
    with pytest.raises(WireError, match="mr_seam"):
        module.to_bytes()
    td = replace(TdInfo(0, 0, bytes(48)), attributes=2**64)
    with pytest.raises(WireError):
        td.to_bytes()

"""Quotes and collateral of a software platform, judged by dcap-qvl, which knows nothing of us."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import dcap_qvl  # type: ignore[import-untyped]
import pytest

from tdxstack.dcap.collateral import Collateral
from tdxstack.dcap.verifier import Verifier
from tdxstack.platform.software.platform import SoftwarePlatform
from tdxstack.platform.software.quoting import QE_ID, ReportRefused
from tdxstack.platform.software.tcb import ModuleVersion, PlatformTcb, TcbReference
from tdxstack.platform.software.td import TrustDomain, seal
from tdxstack.wire.quote import BodyType, Quote, TdReportBody
from tdxstack.wire.tdreport import TdReport

from .conftest import run_td


def judge(quote: bytes, platform: SoftwarePlatform, *, root: bytes | None = None) -> tuple[str, list[str]]:
    """dcap-qvl's status and advisories; our own verifier has to agree."""
    anchor = root or platform.trust_root()
    collateral = dcap_qvl.QuoteCollateralV3.from_json(json.dumps(platform.collateral()))
    report = dcap_qvl.verify_with_root_ca(quote, collateral, anchor, int(time.time()))
    verdict = json.loads(report.to_json())
    ours = Verifier(Collateral.from_json(json.dumps(platform.collateral())), [anchor]).verify(
        quote, now=int(time.time())
    )
    assert ours.authentic
    assert ours.software
    assert (ours.status, list(ours.advisories)) == (verdict["status"], verdict["advisory_ids"])
    return verdict["status"], verdict["advisory_ids"]


@pytest.mark.parametrize("version", [4, 5])
def test_up_to_date(platform: SoftwarePlatform, td: TrustDomain, version: int) -> None:
    td.mr_rtmr_extend(1, b"x" * 48)
    report = td.mr_report(b"n" * 64)
    data = platform.quoting_enclave().quote(report.to_bytes(), version)
    assert judge(data, platform) == ("UpToDate", [])
    quote = Quote.from_bytes(data)
    assert quote.header.user_data.startswith(QE_ID)
    assert isinstance(quote.body, TdReportBody)
    assert quote.body.body_type is (BodyType.TDX_1_5 if version == 5 else BodyType.TDX_1_0)
    assert quote.body.mr_td == td.mrtd
    assert quote.body.rtmrs == tuple(td.rtmrs)
    assert quote.body.report_data == b"n" * 64


def test_every_part_says_software(platform: SoftwarePlatform, td: TrustDomain) -> None:
    data = platform.quoting_enclave().quote(td.mr_report(bytes(64)).to_bytes())
    quote = Quote.from_bytes(data)
    assert b"software" in quote.header.user_data
    assert isinstance(quote.body, TdReportBody)
    assert b"software" in quote.body.mr_seam
    for identity in (platform._store.pki().root, platform._store.pki().pck, platform._store.pki().tcb_signing):
        assert "software" in identity.certificate.subject.rfc4514_string()


def test_not_trusted_without_its_root(platform: SoftwarePlatform, td: TrustDomain) -> None:
    data = platform.quoting_enclave().quote(td.mr_report(bytes(64)).to_bytes())
    collateral = dcap_qvl.QuoteCollateralV3.from_json(json.dumps(platform.collateral()))
    with pytest.raises(ValueError):
        dcap_qvl.verify(data, collateral, int(time.time()))
    other = SoftwarePlatform.create("other")
    with pytest.raises(ValueError):
        judge(data, platform, root=other.trust_root())
    with pytest.raises(ValueError):
        judge(data, other)


@pytest.mark.parametrize("offset", [48, 200, 631, 640, 700, 800])
def test_a_flipped_bit_is_noticed(platform: SoftwarePlatform, td: TrustDomain, offset: int) -> None:
    data = bytearray(platform.quoting_enclave().quote(td.mr_report(bytes(64)).to_bytes()))
    data[offset] ^= 1
    with pytest.raises(ValueError):
        judge(bytes(data), platform)


def test_reports_of_others_are_refused(platform: SoftwarePlatform, td: TrustDomain) -> None:
    other = SoftwarePlatform.create("other").quoting_enclave()
    report = td.mr_report(bytes(64))
    with pytest.raises(ReportRefused, match="MAC"):
        other.quote(report.to_bytes())
    enclave = platform.quoting_enclave()
    for changed in (
        replace(report, report_data=b"x" * 64),
        replace(report, td_info=replace(report.td_info, mr_td=b"x" * 48)).with_hashes(),
        replace(report, tee_tcb_info=replace(report.tee_tcb_info, tee_tcb_svn=b"\xff" * 16)).with_hashes(),
    ):
        with pytest.raises(ReportRefused, match="MAC"):
            enclave.quote(changed.to_bytes())
    with pytest.raises(ReportRefused, match="hashes"):
        enclave.quote(replace(report, td_info=replace(report.td_info, mr_td=b"x" * 48)).to_bytes())
    for junk in (b"", bytes(1024), report.to_bytes()[:-1]):
        with pytest.raises(ReportRefused):
            enclave.quote(junk)


def test_old_platform_is_out_of_date() -> None:
    old = PlatformTcb(components=bytes((2, 3, 2, 2, 4, 1, 0, 5)) + bytes(8))
    platform = SoftwarePlatform.create("old", old)
    data = platform.quoting_enclave().quote(run_td(platform.module()).mr_report(bytes(64)).to_bytes())
    assert judge(data, platform) == ("OutOfDate", ["SOFTWARE-SA-00001"])


def test_old_module_then_update_asks_for_relaunch() -> None:
    old = PlatformTcb(module=ModuleVersion(update=6, svn=4))
    platform = SoftwarePlatform.create("old-module", old)
    td = run_td(platform.module())
    enclave = platform.quoting_enclave()
    assert judge(enclave.quote(td.mr_report(bytes(64)).to_bytes(), 5), platform)[0] == "OutOfDate"
    platform.update_module(ModuleVersion())
    report = td.mr_report(bytes(64))
    assert report.tee_tcb_info.tee_tcb_svn[:2] == bytes((4, 1))
    assert report.tee_tcb_info.tee_tcb_svn2[:2] == bytes((5, 1))
    assert judge(enclave.quote(report.to_bytes(), 5), platform)[0] == "TDRelaunchAdvised"
    assert judge(enclave.quote(report.to_bytes(), 4), platform)[0] == "OutOfDate"
    again = run_td(platform.module())
    assert judge(enclave.quote(again.mr_report(bytes(64)).to_bytes(), 5), platform)[0] == "UpToDate"


def test_tcb_recovery() -> None:
    platform = SoftwarePlatform.create("recovery")
    report = run_td(platform.module()).mr_report(bytes(64)).to_bytes()
    assert judge(platform.quoting_enclave().quote(report), platform)[0] == "UpToDate"
    newer = replace(PlatformTcb(), microcode_svn=3)
    platform.set_reference(TcbReference(current=newer, evaluation=21))
    assert judge(platform.quoting_enclave().quote(report), platform)[0] == "OutOfDate"
    platform.update_tcb(newer)
    report = run_td(platform.module()).mr_report(bytes(64)).to_bytes()
    assert judge(platform.quoting_enclave().quote(report), platform)[0] == "UpToDate"


def test_bios_update_gives_a_new_pck_certificate() -> None:
    old = PlatformTcb(pcesvn=11)
    platform = SoftwarePlatform.create("bios", old)
    before = platform._store.pki().pck.certificate.serial_number
    platform.update_tcb(PlatformTcb())
    assert platform._store.pki().pck.certificate.serial_number != before
    report = run_td(platform.module()).mr_report(bytes(64)).to_bytes()
    assert judge(platform.quoting_enclave().quote(report), platform)[0] == "UpToDate"


def test_revoked_platform() -> None:
    platform = SoftwarePlatform.create("revoked", reference=TcbReference(revoked_pck=True))
    data = platform.quoting_enclave().quote(run_td(platform.module()).mr_report(bytes(64)).to_bytes())
    with pytest.raises(ValueError, match=r"(?i)revoked"):
        judge(data, platform)


def test_td_1_0_report_in_version_5(platform: SoftwarePlatform, td: TrustDomain) -> None:
    report = td.mr_report(bytes(64))
    old = seal(replace(report, report_type=replace(report.report_type, version=0)), td.key)
    quote = Quote.from_bytes(platform.quoting_enclave().quote(old.to_bytes(), 5))
    assert quote.body_type is BodyType.TDX_1_0
    assert TdReport.from_bytes(old.to_bytes()) == old

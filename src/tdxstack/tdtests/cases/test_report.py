"""TDREPORTs of a TD."""

from __future__ import annotations

import base64
import secrets

import pytest

from tdxstack.cloud.vmguest import VMGuest
from tdxstack.errors import TdxStackError
from tdxstack.vm import lifecycle
from tdxstack.wire.tdreport import TdReport

pytestmark = pytest.mark.category("report")


def _report(guest: VMGuest, data: bytes) -> TdReport:
    answer = lifecycle.call_guest(guest.name, "report", {"report_data": data.hex()})
    return TdReport.from_bytes(base64.b64decode(answer["report"]))


def test_report_is_over_its_data(td: VMGuest) -> None:
    first, second = secrets.token_bytes(64), secrets.token_bytes(64)
    one, other = _report(td, first), _report(td, second)
    assert (one.report_data, other.report_data) == (first, second)
    assert one.td_info == other.td_info
    assert one.tee_tcb_info == other.tee_tcb_info
    assert one.hashes_hold


def test_report_is_of_this_td(td: VMGuest) -> None:
    seen = lifecycle.call_guest(td.name, "rtmr.read")
    report = _report(td, bytes(64))
    assert report.td_info.mr_td.hex() == seen["mrtd"]
    assert [value.hex() for value in report.td_info.rtmrs] == seen["rtmr"]


def test_report_data_of_another_size(td: VMGuest) -> None:
    with pytest.raises(TdxStackError, match="64"):
        lifecycle.call_guest(td.name, "report", {"report_data": "00" * 63})

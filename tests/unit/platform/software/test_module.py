"""The module model: measurement, states, status codes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest

from tdxstack.platform.base import TdParameters
from tdxstack.platform.software.module import TdxModule
from tdxstack.platform.software.status import ModuleError, Operand, Status
from tdxstack.platform.software.tcb import PlatformTcb
from tdxstack.platform.software.td import Lifecycle, OpState, TrustDomain, servtd_hash
from tdxstack.wire.tdreport import TdAttributes, TdReport

from .conftest import run_td

PARAMETERS = TdParameters(memory_bytes=1 << 31)


@pytest.fixture
def module() -> TdxModule:
    return TdxModule(bytes(32), PlatformTcb)


def initialised(module: TdxModule, parameters: TdParameters = PARAMETERS) -> TrustDomain:
    td = module.mng_create(1)
    module.mng_key_config(td)
    module.mng_init(td, parameters)
    return td


def status_of(call: Callable[[], object]) -> tuple[Status, Operand]:
    with pytest.raises(ModuleError) as caught:
        call()
    assert caught.value.status == caught.value.code | caught.value.operand
    return caught.value.code, caught.value.operand


def test_mrtd_by_hand(module: TdxModule) -> None:
    td = run_td(module)
    expected = hashlib.sha384(b"MEM.PAGE.ADD" + bytes(4) + (0x1000).to_bytes(8, "little") + bytes(104))
    for chunk in range(16):
        gpa = (0x1000 + 256 * chunk).to_bytes(8, "little")
        expected.update(b"MR.EXTEND" + bytes(7) + gpa + bytes(104) + b"p" * 256)
    assert td.mrtd == expected.digest()


def test_life_of_a_td(module: TdxModule) -> None:
    td = module.mng_create(7)
    seen = [(td.lifecycle, td.op_state)]
    for step in (
        module.mng_key_config,
        lambda td: module.mng_init(td, PARAMETERS),
        module.mr_finalize,
        module.mng_vpflushdone,
        module.mng_key_freeid,
    ):
        step(td)
        seen.append((td.lifecycle, td.op_state))
    assert seen == [
        (Lifecycle.HKID_ASSIGNED, OpState.UNINITIALIZED),
        (Lifecycle.KEYS_CONFIGURED, OpState.UNINITIALIZED),
        (Lifecycle.KEYS_CONFIGURED, OpState.INITIALIZED),
        (Lifecycle.KEYS_CONFIGURED, OpState.RUNNABLE),
        (Lifecycle.BLOCKED, OpState.RUNNABLE),
        (Lifecycle.TEARDOWN, OpState.RUNNABLE),
    ]
    assert status_of(lambda: td.mr_report(bytes(64)))[0] is Status.LIFECYCLE_STATE_INCORRECT
    assert module.mng_create(7).lifecycle is Lifecycle.HKID_ASSIGNED


def test_key_id_in_use(module: TdxModule) -> None:
    module.mng_create(1)
    assert status_of(lambda: module.mng_create(1)) == (Status.HKID_NOT_FREE, Operand.RDX)


def test_calls_before_their_state(module: TdxModule) -> None:
    td = module.mng_create(1)
    wrong_life = (Status.LIFECYCLE_STATE_INCORRECT, Operand.RCX)
    wrong_op = (Status.OP_STATE_INCORRECT, Operand.RCX)
    assert status_of(lambda: module.mng_init(td, PARAMETERS)) == wrong_life
    assert status_of(lambda: module.mng_key_freeid(td)) == wrong_life
    module.mng_key_config(td)
    assert status_of(lambda: module.mng_key_config(td)) == wrong_life
    assert status_of(lambda: module.mem_page_add(td, 0, bytes(4096))) == wrong_op
    assert status_of(lambda: module.mr_extend(td, 0)) == wrong_op
    assert status_of(lambda: module.mr_finalize(td)) == wrong_op
    module.mng_init(td, PARAMETERS)
    assert status_of(lambda: module.mng_init(td, PARAMETERS)) == wrong_op
    assert status_of(lambda: td.mr_report(bytes(64))) == wrong_op
    assert status_of(lambda: td.mr_rtmr_extend(0, bytes(48))) == wrong_op
    module.mr_finalize(td)
    assert status_of(lambda: module.mem_page_add(td, 0, bytes(4096))) == wrong_op
    assert status_of(lambda: module.mr_finalize(td)) == wrong_op


@pytest.mark.parametrize(
    ("gpa", "content", "expected"),
    [
        (0x1001, bytes(4096), (Status.OPERAND_INVALID, Operand.RCX)),
        (1 << 51, bytes(4096), (Status.OPERAND_INVALID, Operand.RCX)),
        (0x2000, bytes(4095), (Status.OPERAND_INVALID, Operand.R8)),
        (0x1000, bytes(4096), (Status.EPT_ENTRY_NOT_FREE, Operand.RCX)),
    ],
)
def test_page_add_refused(module: TdxModule, gpa: int, content: bytes, expected: tuple[Status, Operand]) -> None:
    td = initialised(module)
    module.mem_page_add(td, 0x1000, bytes(4096))
    assert status_of(lambda: module.mem_page_add(td, gpa, content)) == expected


def test_extend_refused(module: TdxModule) -> None:
    td = initialised(module)
    assert status_of(lambda: module.mr_extend(td, 0x1001))[0] is Status.OPERAND_INVALID
    assert status_of(lambda: module.mr_extend(td, 0x1000))[0] is Status.EPT_ENTRY_NOT_PRESENT


@pytest.mark.parametrize(
    ("attributes", "xfam", "operand"),
    [
        (1 << 40, 0x61AE7, Operand.ATTRIBUTES),
        (0, 0x61AE4, Operand.XFAM),
        (0, 0x61AE7 | 1 << 30, Operand.XFAM),
    ],
)
def test_init_refused(module: TdxModule, attributes: int, xfam: int, operand: Operand) -> None:
    td = module.mng_create(1)
    module.mng_key_config(td)
    parameters = TdParameters(memory_bytes=1, attributes=attributes, xfam=xfam)
    assert status_of(lambda: module.mng_init(td, parameters)) == (Status.OPERAND_INVALID, operand)


def test_rtmr_extend(module: TdxModule) -> None:
    td = run_td(module)
    td.mr_rtmr_extend(3, b"d" * 48)
    td.mr_rtmr_extend(3, b"e" * 48)
    first = hashlib.sha384(bytes(48) + b"d" * 48).digest()
    assert td.rtmrs == [bytes(48)] * 3 + [hashlib.sha384(first + b"e" * 48).digest()]
    assert status_of(lambda: td.mr_rtmr_extend(4, bytes(48))) == (Status.OPERAND_INVALID, Operand.RDX)
    assert status_of(lambda: td.mr_rtmr_extend(-1, bytes(48))) == (Status.OPERAND_INVALID, Operand.RDX)
    assert status_of(lambda: td.mr_rtmr_extend(0, bytes(47))) == (Status.OPERAND_INVALID, Operand.RCX)


def test_report(module: TdxModule) -> None:
    parameters = TdParameters(
        memory_bytes=1 << 31,
        attributes=TdAttributes.SEPT_VE_DISABLE | TdAttributes.DEBUG,
        mrconfigid=b"c" * 48,
        mrowner=b"o" * 48,
        mrownerconfig=b"w" * 48,
    )
    td = run_td(module, parameters)
    td.mr_rtmr_extend(2, b"x" * 48)
    report = TdReport.from_bytes(td.mr_report(b"n" * 64).to_bytes())
    assert report.hashes_hold
    assert report.report_data == b"n" * 64
    assert report.td_info.mr_td == td.mrtd
    assert report.td_info.rtmrs == tuple(td.rtmrs)
    assert report.td_info.attributes == 0x10000001
    assert (report.td_info.mr_config_id, report.td_info.mr_owner, report.td_info.mr_owner_config) == (
        b"c" * 48,
        b"o" * 48,
        b"w" * 48,
    )
    assert b"software" in report.tee_tcb_info.mr_seam
    assert report.tee_tcb_info.tee_tcb_svn == report.tee_tcb_info.tee_tcb_svn2 == PlatformTcb().tee_tcb_svn
    assert status_of(lambda: td.mr_report(bytes(63))) == (Status.OPERAND_INVALID, Operand.RDX)


def test_verify_report(module: TdxModule) -> None:
    td = run_td(module)
    report = td.mr_report(bytes(64)).to_bytes()
    td.mr_verifyreport(report[:256])
    for offset in (0, 130, 255):
        changed = bytearray(report[:256])
        changed[offset] ^= 1
        assert status_of(lambda data=bytes(changed): td.mr_verifyreport(data))[0] is Status.INVALID_REPORTMACSTRUCT  # type: ignore[misc]
    other = run_td(TdxModule(b"k" * 32, PlatformTcb))
    assert status_of(lambda: other.mr_verifyreport(report[:256]))[0] is Status.INVALID_REPORTMACSTRUCT


def test_service_td(module: TdxModule) -> None:
    service = run_td(module, hkid=9)
    td = initialised(module)
    assert servtd_hash(td.service_tds) == bytes(48)
    assert module.servtd_bind(td, service, 0, 0, 0) == td.uuid
    module.mr_finalize(td)
    expected = hashlib.sha384(service.servtd_info_hash() + bytes(2) + bytes(8)).digest()
    assert td.mr_report(bytes(64)).td_info.servtd_hash == expected
    module.servtd_bind(td, service, 0, 0, 0)
    service.mr_rtmr_extend(0, b"x" * 48)
    assert status_of(lambda: module.servtd_bind(td, service, 0, 0, 0))[0] is Status.SERVTD_INFO_HASH_MISMATCH
    assert status_of(lambda: module.servtd_bind(td, service, 0, 0, 1))[0] is Status.SERVTD_ATTR_MISMATCH
    assert status_of(lambda: module.servtd_bind(td, service, 0, 1, 0)) == (Status.OPERAND_INVALID, Operand.R9)
    assert status_of(lambda: module.servtd_bind(td, service, 1, 0, 0)) == (Status.OPERAND_INVALID, Operand.RDX)


def test_service_td_prebound(module: TdxModule) -> None:
    service = run_td(module, hkid=9)
    td = initialised(module)
    module.servtd_prebind(td, 0, service.servtd_info_hash(), 0, 0)
    module.mr_finalize(td)
    before = td.mr_report(bytes(64)).td_info.servtd_hash
    module.servtd_bind(td, service, 0, 0, 0)
    assert td.mr_report(bytes(64)).td_info.servtd_hash == before != bytes(48)
    late = run_td(module, hkid=3)
    assert status_of(lambda: module.servtd_prebind(late, 0, bytes(48), 0, 0))[0] is Status.OP_STATE_INCORRECT
    assert status_of(lambda: module.servtd_bind(late, service, 0, 0, 0))[0] is Status.OP_STATE_INCORRECT

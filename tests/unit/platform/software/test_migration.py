"""Saved state, migration bundles, and what a service TD may touch."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import WireError
from tdxstack.platform.base import TdParameters
from tdxstack.platform.software import migration, servtd
from tdxstack.platform.software.module import TdxModule
from tdxstack.platform.software.servtd import Field
from tdxstack.platform.software.status import ModuleError, Status
from tdxstack.platform.software.tcb import PlatformTcb
from tdxstack.platform.software.td import OpState, TrustDomain
from tdxstack.platform.software.td_state import TdState, restore, save
from tdxstack.wire.tdreport import TdAttributes

from .conftest import run_td

MIGRATABLE = TdParameters(memory_bytes=1 << 31, attributes=TdAttributes.SEPT_VE_DISABLE | TdAttributes.MIGRATABLE)


def refused(call: Callable[[], object]) -> Status:
    with pytest.raises(ModuleError) as caught:
        call()
    return caught.value.code


@dataclass
class Side:
    """One host: its module, a migration TD, and the TD that leaves or comes."""

    module: TdxModule
    service: TrustDomain
    td: TrustDomain


def keyed(module: TdxModule, hkid: int) -> TrustDomain:
    td = module.mng_create(hkid)
    module.mng_key_config(td)
    return td


def source(parameters: TdParameters = MIGRATABLE) -> Side:
    module = TdxModule(b"s" * 32, PlatformTcb)
    service = run_td(module, hkid=2)
    td = keyed(module, 3)
    module.mng_init(td, parameters)
    module.mem_page_add(td, 0, b"m" * 4096)
    module.servtd_bind(td, service, 0, 0, 0)
    module.mr_finalize(td)
    td.mr_rtmr_extend(2, b"x" * 48)
    return Side(module, service, td)


def destination() -> Side:
    module = TdxModule(b"d" * 32, PlatformTcb)
    service = run_td(module, hkid=2)
    td = keyed(module, 3)
    module.servtd_bind(td, service, 0, 0, 0)
    return Side(module, service, td)


def exchange_keys(first: Side, second: Side) -> None:
    """What the migration TDs do: each key's words are read on one side and written on the other."""
    for giver, taker in ((first, second), (second, first)):
        for word in range(4):
            value = servtd.servtd_rd(giver.service, giver.td, Field.MIG_ENC_KEY + word)
            servtd.servtd_wr(taker.service, taker.td, Field.MIG_DEC_KEY + word, value)


@pytest.fixture
def pair() -> tuple[Side, Side]:
    sides = source(), destination()
    exchange_keys(*sides)
    return sides


def test_migration(pair: tuple[Side, Side]) -> None:
    here, there = pair
    migration.import_state_immutable(there.td, migration.export_state_immutable(here.td))
    here.td.mr_rtmr_extend(3, b"late" * 12)
    migration.export_pause(here.td)
    assert refused(lambda: here.td.mr_report(bytes(64))) is Status.OP_STATE_INCORRECT
    migration.import_state_td(there.td, migration.export_state_td(here.td))
    assert refused(lambda: there.td.mr_report(bytes(64))) is Status.OP_STATE_INCORRECT
    migration.import_track(there.td, migration.export_track_done(here.td))
    assert refused(lambda: migration.export_abort(here.td)) is Status.INVALID_MBMD
    migration.import_commit(there.td)
    migration.import_end(there.td)
    assert there.td.op_state is OpState.RUNNABLE
    assert there.td.registers() == here.td.registers()
    report = there.td.mr_report(bytes(64))
    there.td.mr_verifyreport(report.to_bytes()[:256])
    assert report.td_info.attributes == MIGRATABLE.attributes


def test_abort_on_the_source(pair: tuple[Side, Side]) -> None:
    here, there = pair
    before = here.td.registers()
    bundle = migration.export_state_immutable(here.td)
    migration.export_pause(here.td)
    migration.export_abort(here.td)
    assert here.td.registers() == before
    here.td.mr_report(bytes(64))
    migration.import_state_immutable(there.td, bundle)
    migration.import_abort(there.td)
    assert there.td.op_state is OpState.FAILED_IMPORT


def test_abort_after_the_start_token(pair: tuple[Side, Side]) -> None:
    here, there = pair
    migration.import_state_immutable(there.td, migration.export_state_immutable(here.td))
    migration.export_pause(here.td)
    migration.export_state_td(here.td)
    migration.export_track_done(here.td)
    assert refused(lambda: migration.export_abort(here.td, b"x" * 60)) is Status.INVALID_MBMD
    migration.export_abort(here.td, migration.import_abort(there.td))
    here.td.mr_report(bytes(64))
    # Another destination, new keys: the source can leave again.
    second = destination()
    exchange_keys(here, second)
    migration.import_state_immutable(second.td, migration.export_state_immutable(here.td))


def test_not_migratable() -> None:
    here, there = source(TdParameters(memory_bytes=1 << 31)), destination()
    exchange_keys(here, there)
    assert refused(lambda: migration.export_state_immutable(here.td)) is Status.TD_NOT_MIGRATABLE


def test_keys_first() -> None:
    here = source()
    assert refused(lambda: migration.export_state_immutable(here.td)) is Status.MIGRATION_DECRYPTION_KEY_NOT_SET
    bundle = b"x" * 100
    assert refused(lambda: migration.import_state_immutable(destination().td, bundle)) is (
        Status.MIGRATION_DECRYPTION_KEY_NOT_SET
    )


def test_bundles_of_another_session(pair: tuple[Side, Side]) -> None:
    here, there = pair
    stranger = destination()
    exchange_keys(source(), stranger)
    bundle = migration.export_state_immutable(here.td)
    assert refused(lambda: migration.import_state_immutable(stranger.td, bundle)) is Status.INCORRECT_MBMD_MAC
    for offset in range(0, len(bundle), 7):
        changed = bytearray(bundle)
        changed[offset] ^= 0x40
        assert refused(lambda data=bytes(changed): migration.import_state_immutable(there.td, data)) in (  # type: ignore[misc]
            Status.INCORRECT_MBMD_MAC,
            Status.INVALID_MBMD,
        )
    for junk in (b"", bundle[:30], bundle[:-1], bundle + b"x"):
        assert refused(lambda data=junk: migration.import_state_immutable(there.td, data)) in (  # type: ignore[misc]
            Status.INCORRECT_MBMD_MAC,
            Status.INVALID_MBMD,
        )
    migration.import_state_immutable(there.td, bundle)


def test_bundles_out_of_order_end_the_import(pair: tuple[Side, Side]) -> None:
    here, there = pair
    bundle = migration.export_state_immutable(here.td)
    migration.import_state_immutable(there.td, bundle)
    assert refused(lambda: migration.import_state_td(there.td, bundle)) is Status.INVALID_MBMD
    assert there.td.op_state is OpState.FAILED_IMPORT
    migration.export_pause(here.td)
    good = migration.export_state_td(here.td)
    assert refused(lambda: migration.import_state_td(there.td, good)) is Status.OP_STATE_INCORRECT


def test_calls_out_of_order(pair: tuple[Side, Side]) -> None:
    here, there = pair
    for call in (
        lambda: migration.export_pause(here.td),
        lambda: migration.export_state_td(here.td),
        lambda: migration.export_track_done(here.td),
        lambda: migration.export_abort(here.td),
        lambda: migration.import_state_immutable(here.td, b""),
        lambda: migration.import_state_td(there.td, b""),
        lambda: migration.import_track(there.td, b""),
        lambda: migration.import_commit(there.td),
        lambda: migration.import_end(there.td),
        lambda: migration.import_abort(there.td),
    ):
        assert refused(call) is Status.OP_STATE_INCORRECT


def test_service_td_access() -> None:
    here = source()
    other = run_td(here.module, hkid=9)
    read, write = servtd.servtd_rd, servtd.servtd_wr
    assert refused(lambda: read(other, here.td, Field.MIG_ENC_KEY)) is Status.SERVTD_UUID_MISMATCH
    assert refused(lambda: read(here.service, other, Field.MIG_ENC_KEY)) is Status.SERVTD_NOT_BOUND
    assert refused(lambda: read(here.service, here.td, Field.MIG_DEC_KEY)) is Status.OPERAND_INVALID
    assert refused(lambda: write(here.service, here.td, Field.MIG_ENC_KEY, 0)) is Status.OPERAND_INVALID
    assert refused(lambda: write(here.service, here.td, Field.MIG_VERSION, 9)) is Status.OPERAND_INVALID
    write(here.service, here.td, Field.MIG_VERSION, 0)
    here.service.mr_rtmr_extend(0, b"x" * 48)
    assert refused(lambda: read(here.service, here.td, Field.MIG_ENC_KEY)) is Status.SERVTD_INFO_HASH_MISMATCH


def test_save_and_restore() -> None:
    module = TdxModule(b"k" * 32, PlatformTcb)
    td = run_td(module)
    td.mr_rtmr_extend(1, b"x" * 48)
    data = save(td)
    td.mr_rtmr_extend(1, b"y" * 48)
    again = keyed(module, 7)
    restore(again, data)
    assert again.rtmrs[1] != td.rtmrs[1]
    assert again.mrtd == td.mrtd
    assert again.uuid == td.uuid
    again.mr_rtmr_extend(1, b"y" * 48)
    assert again.registers() == td.registers()
    assert again.mr_report(bytes(64)) == td.mr_report(bytes(64))


def test_saved_state_is_sealed() -> None:
    module = TdxModule(b"k" * 32, PlatformTcb)
    data = save(run_td(module))
    assert refused(lambda: restore(keyed(TdxModule(b"j" * 32, PlatformTcb), 1), data)) is Status.INCORRECT_MBMD_MAC
    for offset in range(0, len(data), 11):
        changed = bytearray(data)
        changed[offset] ^= 1
        with pytest.raises((ModuleError, WireError)):
            restore(keyed(TdxModule(b"k" * 32, PlatformTcb), 1), bytes(changed))
    with pytest.raises(WireError):
        restore(keyed(TdxModule(b"k" * 32, PlatformTcb), 1), data[:-1])
    assert refused(lambda: restore(run_td(TdxModule(b"k" * 32, PlatformTcb)), data)) is Status.OP_STATE_INCORRECT


def test_state_round_trip() -> None:
    state = TdState.of(source().td)
    assert TdState.from_bytes(state.to_bytes()) == state


@pytest.mark.parametrize(
    "change",
    [
        {"rtmrs": []},
        {"mrtd": "00"},
        {"parameters": {}},
        {"uuid": 3},
        {"service_tds": {"0": {}}},
        {"rtmrs": ["z"] * 4},
    ],
)
def test_state_refused(change: dict[str, object]) -> None:
    value = TdState.of(source().td).to_json()
    with pytest.raises(WireError):
        TdState.from_bytes(json.dumps(value | change).encode())


@given(st.binary(max_size=60))
def test_only_wire_errors(data: bytes) -> None:
    with contextlib.suppress(WireError):
        TdState.from_bytes(data)

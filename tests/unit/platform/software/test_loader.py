"""A TD launched page by page has the MRTD that is computed from the file."""

from __future__ import annotations

import pytest

from firmware_file import GENERIC_4M, firmware_file
from tdxstack.errors import WireError
from tdxstack.measure.launch import launch_events
from tdxstack.measure.mrtd import MrtdOrder, mrtd
from tdxstack.measure.rtmr import fold
from tdxstack.platform.base import TdParameters
from tdxstack.platform.software.loader import launch, retire
from tdxstack.platform.software.module import TdxModule
from tdxstack.platform.software.tcb import PlatformTcb
from tdxstack.platform.software.td import OpState
from tdxstack.wire.tcg import Algorithm

PARAMETERS = TdParameters(memory_bytes=2 << 30)


@pytest.fixture
def module() -> TdxModule:
    return TdxModule(bytes(32), PlatformTcb)


@pytest.mark.parametrize("order", list(MrtdOrder))
def test_mrtd(module: TdxModule, order: MrtdOrder) -> None:
    file = firmware_file(GENERIC_4M)
    td = launch(module, PARAMETERS, file, order)
    assert td.mrtd == mrtd(file, order)
    assert td.op_state is OpState.RUNNABLE
    assert not td.pages


def test_rtmr0_begins_with_hob_and_configuration_volume(module: TdxModule) -> None:
    file = firmware_file(GENERIC_4M)
    td = launch(module, PARAMETERS, file)
    digests = [event.digest(Algorithm.SHA384) or b"" for event in launch_events(file, PARAMETERS.memory_bytes)]
    assert len(digests) == 2
    assert td.rtmrs == [fold(digests)] + [bytes(48)] * 3


def test_memory_size_shows_in_rtmr0_only(module: TdxModule) -> None:
    file = firmware_file(GENERIC_4M)
    first = launch(module, PARAMETERS, file)
    second = launch(module, TdParameters(memory_bytes=4 << 30), file, hkid=2)
    assert first.mrtd == second.mrtd
    assert first.rtmrs[0] != second.rtmrs[0]


def test_launch_again(module: TdxModule) -> None:
    file = firmware_file(GENERIC_4M)
    td = launch(module, PARAMETERS, file)
    registers = td.registers()
    td.mr_rtmr_extend(2, b"x" * 48)
    retire(module, td)
    assert launch(module, PARAMETERS, file).registers() == registers


def test_not_a_tdvf(module: TdxModule) -> None:
    with pytest.raises(WireError):
        launch(module, PARAMETERS, bytes(4096))

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.preflight import seamcall


@pytest.mark.parametrize(
    ("leaf", "code", "words"),
    [
        (0x22, 0xC000050500000000, "TDH.SYS.RD: TDX_SYS_NOT_READY"),
        (0x21, 0xC000090000000000, "TDH.SYS.INIT: TDX_INCORRECT_CPUID_VALUE"),
        (0x8, 0x8000020000000092, "TDH.MNG.KEY.CONFIG: TDX_OPERAND_BUSY, operand KOT"),
        (0x2, 0xC000010000000001, "TDH.MEM.PAGE.ADD: TDX_OPERAND_INVALID, operand RCX"),
        (0x21, 0x8000FF00FFFF0000, "TDH.SYS.INIT: VMFailInvalid"),
        (0x21, 0x8000FF000000000D, "#GP"),
        (1 << 63 | 1, 0, "SEAMLDR.INSTALL: TDX_SUCCESS"),
    ],
)
def test_known_statuses(leaf: int, code: int, words: str) -> None:
    assert words in seamcall.decode(code, leaf).text


def test_old_modules_get_a_fix() -> None:
    fix = seamcall.decode(0xC000050500000000).fix
    assert fix is not None and "BIOS" in fix


def test_an_unknown_status_is_data() -> None:
    status = seamcall.decode(0xC0007FFF00000000, 0x3333)
    assert status.name == "status 0xc0007fff"
    assert "leaf 13107" in status.text
    assert not status.recoverable


@given(st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1))
def test_every_number_has_a_text(code: int, leaf: int) -> None:
    assert seamcall.decode(code, leaf).text

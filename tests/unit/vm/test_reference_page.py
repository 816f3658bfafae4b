"""The reference page says of each setting what its declaration says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tdxstack.vm.dialects import DIALECTS
from tdxstack.vm.settings import Setting
from tdxstack.vm.spec import SETTINGS
from tdxstack.vm.state import State

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "reference" / "td.md").read_text()


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: str(setting.name))
def test_each_setting(setting: Setting) -> None:
    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{setting.name}` |")]
    assert row.endswith(f"| {setting.help} |")


def test_each_state_and_dialect() -> None:
    assert all(f"\n| {state.value} |" in PAGE for state in State)
    assert all(name in PAGE for name in DIALECTS)

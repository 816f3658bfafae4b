"""The reference page says of each setting what its declaration says."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tdxstack.errors import UsageError
from tdxstack.vm.dialects import DIALECTS
from tdxstack.vm.settings import Setting
from tdxstack.vm.spec import SETTINGS, TdSpec, json_schema
from tdxstack.vm.state import State

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "reference" / "td.md").read_text()


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: str(setting.name))
def test_each_setting(setting: Setting) -> None:
    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{setting.name}` |")]
    assert row.endswith(f"| {setting.help} |")


def test_each_state_and_dialect() -> None:
    assert all(f"\n| {state.value} |" in PAGE for state in State)
    assert all(name in PAGE for name in DIALECTS)


def test_the_published_schema_is_what_is_accepted() -> None:
    path = Path(__file__).resolve().parents[3] / "docs" / "reference" / "td.schema.json"
    text = json.dumps(json_schema(), indent=2) + "\n"
    if os.environ.get("TDXSTACK_WRITE_GOLDEN"):
        path.write_text(text)
    assert path.read_text() == text, "TDXSTACK_WRITE_GOLDEN=1 writes it anew"


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: str(setting.name))
def test_the_schema_takes_what_is_written_and_refuses_what_is_not_read(setting: Setting) -> None:
    schema = json_schema()["properties"][setting.name]
    types = schema.get("type", "string")
    if types == "boolean" or "enum" in schema or types == "array" or "integer" in types:
        wrong: object = "no such value" if "enum" in schema else {"no": "such"}
        with pytest.raises(UsageError):
            TdSpec.from_mapping({"name": "x", setting.name: wrong})
    if (default := schema.get("default")) is not None:
        values = {"name": "x", setting.name: default}
        assert getattr(TdSpec.from_mapping(values), setting.name) == getattr(TdSpec(name="x"), setting.name)

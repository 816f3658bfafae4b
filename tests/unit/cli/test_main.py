from __future__ import annotations

import pytest

from tdxstack.cli.main import main


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("tdxctl ")


def test_no_noun_is_a_usage_error() -> None:
    assert main([]) == 2

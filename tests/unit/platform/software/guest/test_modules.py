from __future__ import annotations

import os
from pathlib import Path

import pytest

from tdxstack.errors import SystemFault
from tdxstack.platform.software.guest import modules


@pytest.fixture
def modprobe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A modprobe that knows one module, and writes down what it was asked."""
    program = tmp_path / "modprobe"
    program.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\nfor name; do :; done\n[ "$name" = known ]\n')
    program.chmod(0o755)
    monkeypatch.setattr(modules, "_MODPROBE", (str(program),))
    return tmp_path / "asked"


@pytest.mark.processes
def test_the_first_that_is_there_is_loaded(modprobe: Path) -> None:
    modules.load("unknown", "known", "never asked")
    assert [line.split()[-1] for line in modprobe.read_text().splitlines()] == ["unknown", "known"]


@pytest.mark.processes
def test_none_is_there(modprobe: Path) -> None:
    with pytest.raises(SystemFault, match="module a or b cannot be loaded"):
        modules.load("a", "b")


def test_no_modprobe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(SystemFault, match="modprobe is not installed"):
        modules.load("cuse")

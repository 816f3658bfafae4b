"""Unit tests neither start programs nor touch the user's own state, unless they say so."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "unit",
    deadline=None,
    max_examples=40,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],  # the machine may be busy
)
settings.load_profile("unit")


@pytest.fixture(autouse=True)
def _no_processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("processes"):
        return

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError(f"a unit test starts a program: {args[:1]}; mark it 'processes'")

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)


@pytest.fixture(scope="session")
def _homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Names of homes, none of which is there yet: most tests want none, and directories cost time."""
    folder = tmp_path_factory.mktemp("homes")
    return (folder / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def _own_home(_homes: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    home = next(_homes)
    monkeypatch.setenv("TDXSTACK_HOME", str(home))
    monkeypatch.setenv("TDXSTACK_RUNTIME", str(home / "run"))
    return home

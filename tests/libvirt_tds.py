"""TDs on the tests' own libvirtd, as small as a guest can be."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from libvirt_daemon import Libvirtd
from td_home import small
from tdxstack.errors import TdxStackError
from tdxstack.vm import lifecycle
from tdxstack.vm.record import TdRecord
from tdxstack.vm.spec import Via, VmType
from tiny_guest import TinyGuest

Define = Callable[..., TdRecord]
PATIENCE = 90.0


@pytest.fixture
def define(libvirtd: Libvirtd, home: Path, tiny_guest: TinyGuest) -> Define:
    def make(name: str = "demo", **settings: object) -> TdRecord:
        spec = replace(small(name, tiny_guest), type=VmType.EFI, via=Via.LIBVIRT, connect=libvirtd.uri)
        return lifecycle.create(replace(spec, **settings))  # type: ignore[arg-type]

    return make


def again(action: Callable[[], object]) -> None:
    """Once the supervisor has found libvirtd, or its host, again."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            action()
        except TdxStackError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return

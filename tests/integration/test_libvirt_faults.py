"""libvirtd killed while a TD is in each of its states: the state told stays true, and the TD goes on from there."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from libvirt_daemon import Libvirtd, libvirtd
from libvirt_tds import Define, again, define
from td_home import BOOT_TIMEOUT, gone, home, until
from tdxstack.errors import TdxStackError
from tdxstack.vm import changes, lifecycle
from tdxstack.vm.error_document import RemoteError
from tdxstack.vm.libvirt import observed
from tdxstack.vm.record import Place
from tdxstack.vm.spec import VmType
from tdxstack.vm.state import State
from tiny_guest import tiny_guest

__all__ = ["define", "home", "libvirtd", "tiny_guest"]
pytestmark = [pytest.mark.integration, pytest.mark.slow]


@contextmanager
def _without(libvirtd: Libvirtd) -> Iterator[None]:
    libvirtd.kill()
    try:
        yield
    finally:
        libvirtd.start()


def test_killed_in_every_state(define: Define, libvirtd: Libvirtd) -> None:
    define()
    with _without(libvirtd):
        assert lifecycle.status("demo").reason == observed.UNREACHABLE
        with pytest.raises(RemoteError, match="libvirt"):
            lifecycle.start("demo")
        assert lifecycle.status("demo").state is State.FAILED
    lifecycle.start("demo")
    lifecycle.wait_ready("demo", BOOT_TIMEOUT)

    lifecycle.suspend("demo")
    with _without(libvirtd):
        assert lifecycle.status("demo").state is State.PAUSED
        with pytest.raises(RemoteError, match="libvirt"):
            lifecycle.resume("demo")
        assert lifecycle.status("demo").state is State.PAUSED
    again(lambda: lifecycle.resume("demo"))
    assert lifecycle.status("demo").state is State.RUNNING

    changes.save("demo")
    with _without(libvirtd):
        assert lifecycle.status("demo").state is State.SAVED
    lifecycle.start("demo")
    assert lifecycle.call_guest("demo", "ping", timeout=30) == {"pong": True}

    with _without(libvirtd):
        with pytest.raises(RemoteError, match="did not"):
            lifecycle.stop("demo", "agent", timeout=5)
        assert lifecycle.status("demo").state is State.RUNNING, "its QEMU waits for libvirt"
    assert until("demo", State.STOPPED).reason is None
    assert lifecycle.start("demo").state is State.RUNNING


@pytest.mark.parametrize("kind", [VmType.EFI, VmType.TD])
def test_killed_during_a_start(define: Define, libvirtd: Libvirtd, kind: VmType) -> None:
    define(type=kind)
    outcome: list[object] = []

    def start() -> None:
        try:
            outcome.append(lifecycle.start("demo").state)
        except TdxStackError as error:
            outcome.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    while not (Place("demo").run_dir / "console.sock").exists() and thread.is_alive():
        time.sleep(0.005)
    with _without(libvirtd):
        thread.join(60)
        assert not thread.is_alive()
        # The one moment or the other: it runs, or the start has failed with words.
        assert outcome[0] is State.RUNNING or "libvirt" in str(outcome[0])
    record = until("demo", State.RUNNING, State.FAILED)
    if record.state is State.RUNNING:
        again(lambda: lifecycle.suspend("demo"))
        lifecycle.stop("demo", "force")
    gone(record)
    assert lifecycle.start("demo").state is State.RUNNING

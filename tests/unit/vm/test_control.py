from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tdxstack.errors import ExitCode, PlatformMissing, StateError, SystemFault
from tdxstack.vm import lifecycle
from tdxstack.vm.control import ControlClient
from tdxstack.vm.control_server import ControlServer
from tdxstack.vm.error_document import RemoteError, error_document, error_from_document
from tdxstack.vm.record import Place
from tdxstack.vm.spec import TdSpec, VmType


async def _echo(params: Mapping[str, Any]) -> Any:
    return dict(params)


async def _refuse(_: Mapping[str, Any]) -> Any:
    raise PlatformMissing("no such thing", hint="make one")


async def _sleep(_: Mapping[str, Any]) -> Any:
    await asyncio.sleep(1)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    kernel = tmp_path / "k"
    kernel.touch()
    lifecycle.create(TdSpec(name="demo", kernel=kernel, type=VmType.EFI))
    place = Place("demo")
    place.make_run_dir()
    loop = asyncio.new_event_loop()
    server = ControlServer("demo", place.control, {"echo": _echo, "refuse": _refuse, "sleep": _sleep})
    loop.run_until_complete(server.open())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield "demo"
    asyncio.run_coroutine_threadsafe(server.close(), loop).result(60)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_answers_and_errors(served: str) -> None:
    with ControlClient(served) as client:
        assert client.call("echo", {"a": [1]}) == {"a": [1]}
        with pytest.raises(RemoteError, match="no such thing") as caught:
            client.call("refuse")
        assert (caught.value.kind, caught.value.hint) == ("PlatformMissing", "make one")
        assert caught.value.exit_code is ExitCode.UNSUPPORTED
        with pytest.raises(RemoteError, match="no method 'dance'"):
            client.call("dance")
        assert client.call("echo") == {}


def test_no_answer_in_time(served: str) -> None:
    with ControlClient(served) as client, pytest.raises(SystemFault, match="no answer to sleep within"):
        client.call("sleep", timeout=0.1)


def test_without_a_supervisor(tmp_path: Path) -> None:
    kernel = tmp_path / "k"
    kernel.touch()
    lifecycle.create(TdSpec(name="idle", kernel=kernel, type=VmType.EFI))
    with pytest.raises(StateError, match="while defined") as caught:
        ControlClient("idle")
    assert caught.value.hint == "tdxctl td start idle"


def test_an_error_keeps_its_facts_over_two_hops() -> None:
    once = error_from_document(error_document(PlatformMissing("x", hint="tdxctl td logs NAME"), "web"))
    twice = error_from_document(error_document(once, "web"))
    assert (twice.kind, twice.message, twice.hint, twice.exit_code) == (
        "PlatformMissing",
        "x",
        "tdxctl td logs web",
        4,
    )

"""Interrupts that wait."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tdxstack.system.interrupts import held_back


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_arrives_after_the_block_and_once(number: signal.Signals) -> None:
    told: list[int] = []
    signal.signal(number, lambda got, _: told.append(got))
    with held_back():
        signal.raise_signal(number)
        signal.raise_signal(number)
        assert told == []
    assert told == [number]


def test_ctrl_c_raises_where_the_block_ends_and_its_result_is_kept() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    made = None
    with pytest.raises(KeyboardInterrupt), held_back():
        signal.raise_signal(signal.SIGINT)
        made = "whole"
    assert made == "whole"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with held_back():
        signal.raise_signal(signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN

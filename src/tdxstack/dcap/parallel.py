"""Verifying many quotes on all cores: worker processes that each hold a copy of the Verifier."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING

from tdxstack.dcap.verification import Judgement, Verification

if TYPE_CHECKING:
    from tdxstack.dcap.verifier import Verifier

#: Quotes handed to a worker at a time: enough to make the hand-over cheap, few enough to share out evenly.
_CHUNK = 64

_in_worker: dict[str, Verifier] = {}


class VerifierPool:
    """Worker processes for one Verifier; a context manager. Results come in the order of the quotes.

    Args:
        verifier: what each worker holds a copy of.
        workers: how many processes; as many as this process may use cores, if None.
    """

    def __init__(self, verifier: Verifier, workers: int | None = None) -> None:
        self._verifier = verifier
        # Forking is quick and needs no importable main module, but only a process with one thread may do it.
        method = "fork" if threading.active_count() == 1 else "forkserver"
        self._pool = ProcessPoolExecutor(
            workers, multiprocessing.get_context(method), initializer=_start, initargs=(verifier,)
        )

    def verify(self, quotes: Iterable[bytes], *, now: int) -> Iterator[Verification]:
        """Judge every quote at ``now`` (Unix seconds)."""
        batches = list(_batches(quotes))
        judged = self._pool.map(_judge, batches, [now] * len(batches))
        for batch, judgements in zip(batches, judged, strict=True):
            for raw, judgement in zip(batch, judgements, strict=True):
                yield Verification(raw, now, judgement, self._verifier)

    def __enter__(self) -> VerifierPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)


def _batches(quotes: Iterable[bytes]) -> Iterator[tuple[bytes, ...]]:
    remaining = iter(quotes)
    while batch := tuple(islice(remaining, _CHUNK)):
        yield batch


def _start(verifier: Verifier) -> None:
    _in_worker["verifier"] = verifier


def _judge(batch: Sequence[bytes], now: int) -> list[Judgement]:
    verifier = _in_worker["verifier"]
    return [verifier.judge(raw, now)[0] for raw in batch]

"""Verifying many quotes on all cores: worker processes that each hold a copy of the Verifier."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING

from tdxstack.dcap.verification import Judgement, Qvl, Verification

if TYPE_CHECKING:
    from tdxstack.dcap.verifier import Verifier

#: Quotes handed to a worker at a time: enough to make the hand-over cheap, few enough to share out evenly.
_SMALLEST_BATCH, _LARGEST_BATCH = 8, 256

_in_worker: dict[str, Verifier] = {}
_known: list[Sequence[bytes]] = []
#: Different judgements, and for each quote which of them it has.
_Judged = tuple[list[Judgement], list[int]]


class VerifierPool:
    """Worker processes for one Verifier; a context manager. Results come in the order of the quotes.

    Args:
        verifier: what each worker holds a copy of.
        workers: how many processes; as many as this process may use cores, if None.
        quotes: quotes that are known beforehand: workers that are forked need not be handed them.
    """

    def __init__(self, verifier: Verifier, workers: int | None = None, quotes: Sequence[bytes] = ()) -> None:
        self._verifier = verifier
        # Forking is quick and needs no importable main module, but only a process with one thread may do it.
        method = "fork" if threading.active_count() == 1 else "forkserver"
        self._quotes = quotes
        self._inherited = method == "fork"
        self._pool = ProcessPoolExecutor(
            workers,
            multiprocessing.get_context(method),
            initializer=_start,
            initargs=(verifier, quotes if self._inherited else ()),
        )
        self._workers = workers or multiprocessing.cpu_count()

    def verify(self, quotes: Iterable[bytes], *, now: int) -> Iterator[Verification]:
        """Judge every quote at ``now`` (Unix seconds)."""
        raws = list(quotes)
        batches = [raws[part] for part in self._parts(len(raws))]
        judged = self._pool.map(_judge, batches, [now] * len(batches))
        return self._results(batches, judged, now)

    def verify_known(self, *, now: int) -> Iterator[Verification]:
        """Judge the quotes that the pool was made with at ``now`` (Unix seconds)."""
        if not self._inherited:
            return self.verify(self._quotes, now=now)
        parts = self._parts(len(self._quotes))
        judged = self._pool.map(_judge_part, parts, [now] * len(parts))
        return self._results((self._quotes[part] for part in parts), judged, now)

    def _parts(self, count: int) -> list[slice]:
        size = min(max(count // (8 * self._workers), _SMALLEST_BATCH), _LARGEST_BATCH)
        return [slice(at, at + size) for at in range(0, count, size)]

    def _results(
        self, batches: Iterable[Sequence[bytes]], judged: Iterator[_Judged], now: int
    ) -> Iterator[Verification]:
        for batch, (judgements, indexes) in zip(batches, judged, strict=True):
            for raw, index in zip(batch, indexes, strict=True):
                yield Verification(raw, now, judgements[index], self._verifier)

    def __enter__(self) -> VerifierPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)


def _start(verifier: Verifier, quotes: Sequence[bytes]) -> None:
    _in_worker["verifier"] = verifier
    _known.append(quotes)


def _judge_part(part: slice, now: int) -> _Judged:
    return _judge(_known[0][part], now)


def _judge(batch: Sequence[bytes], now: int) -> _Judged:
    """The different judgements of a batch, and which of them each quote has: most quotes have the same."""
    verifier = _in_worker["verifier"]
    judgements: list[Judgement] = []
    known: dict[tuple[int, Qvl], int] = {}
    indexes = []
    for raw in batch:
        judgement, _ = verifier.judge(raw, now)
        key = (id(judgement.outcome), judgement.qvl)
        index = known.get(key)
        if index is None:
            index = known[key] = len(judgements)
            judgements.append(judgement)
        indexes.append(index)
    return judgements, indexes

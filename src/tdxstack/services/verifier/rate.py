"""A limit to how often one address may ask."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

_ADDRESSES = 8192


class RateLimit:
    """A bucket of ``burst`` requests for each address, filled with ``per_second``. For one thread alone."""

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._burst = burst
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, address: str) -> float:
        """0 if the address may ask now, else the seconds until it may."""
        now = self._clock()
        left, counted = self._buckets.pop(address, (float(self._burst), now))
        left = min(self._burst, left + (now - counted) * self._per_second)
        allowed = left >= 1
        self._buckets[address] = (left - 1 if allowed else left, now)
        while len(self._buckets) > _ADDRESSES:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self._per_second

"""A bounded memory of what was worked out before."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Remembered(Generic[K, V]):
    """Up to ``limit`` values by key; the oldest goes first. For use by many threads.

    Unlike ``functools.lru_cache`` on a method it holds no reference to its owner, so that owner and values go as
    soon as the last reference does, not at some later collection of cycles.
    """

    __slots__ = ("_items", "_limit", "_lock")

    def __init__(self, limit: int) -> None:
        self._items: dict[K, V] = {}
        self._limit = limit
        self._lock = Lock()

    def get(self, key: K, make: Callable[[K], V]) -> V:
        """The value for ``key``; if it is not known, ``make(key)``, which is then remembered."""
        value = self._items.get(key)
        if value is None:
            value = make(key)
            with self._lock:
                if len(self._items) >= self._limit:
                    del self._items[next(iter(self._items))]
                self._items[key] = value
        return value

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._items.clear()

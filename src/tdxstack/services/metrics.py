"""Counters and gauges in Prometheus' text format, version 0.0.4. Thread-safe."""

from __future__ import annotations

import threading
from collections.abc import Mapping

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Numbers by name and labels. A name must be declared before it is used."""

    def __init__(self, declared: Mapping[str, tuple[str, str]]) -> None:
        """``declared``: name to its type (``counter``, ``gauge``) and help text."""
        self._declared = dict(declared)
        self._values: dict[str, dict[Labels, float]] = {name: {} for name in declared}
        self._lock = threading.Lock()

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Raise a counter."""
        key = tuple(sorted(labels.items()))
        with self._lock:
            values = self._values[name]
            values[key] = values.get(key, 0) + amount

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        with self._lock:
            self._values[name][tuple(sorted(labels.items()))] = value

    def get(self, name: str, **labels: str) -> float:
        """A value; 0 if it was never set."""
        with self._lock:
            return self._values[name].get(tuple(sorted(labels.items())), 0)

    def text(self) -> str:
        """All of them."""
        lines: list[str] = []
        with self._lock:
            for name, (kind, help_text) in self._declared.items():
                lines += [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]
                for labels, value in sorted(self._values[name].items()):
                    inner = ",".join(f'{key}="{_escape(text)}"' for key, text in labels)
                    lines.append(f"{name}{{{inner}}} {value:g}" if inner else f"{name} {value:g}")
        return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

"""QEMU's ``key=value`` options, where a comma in a value is written twice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def option(head: str, values: Mapping[str, Any] | Iterable[tuple[str, Any]] = ()) -> str:
    """``head,key=value,...``; True and False become on and off, None leaves the key out."""
    pairs = values.items() if isinstance(values, Mapping) else values
    return ",".join([head, *(f"{key}={_text(value)}" for key, value in pairs if value is not None)])


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value).replace(",", ",,")

"""Who uses an image when QEMU says that somebody does (its image locks, ``docs/system/images.rst``)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tdxstack.errors import SystemFault, TdxStackError, UsageError
from tdxstack.vm import record as records
from tdxstack.vm.observation import observe
from tdxstack.vm.record import TdRecord
from tdxstack.vm.state import ACTIVE

#: What QEMU and qemu-img say of an image that another process has open in a way that excludes theirs.
LOCKED = ('Failed to get "write" lock', 'Failed to get shared "write" lock', 'Failed to get "consistent read" lock')


def explained(record: TdRecord, error: TdxStackError) -> TdxStackError:
    """``error``, or where it came from a locked image one that says who uses it."""
    image = record.spec.image
    if image is None or not any(words in str(error) for words in LOCKED):
        return error
    for other in _users(record.name, image):
        what = "has an overlay over it" if other.spec.overlay else "writes to it"
        return SystemFault(
            f"TD {record.name}: {image} is in use: TD {other.name} {what}", hint=f"tdxctl td stop {other.name}"
        )
    return SystemFault(f"TD {record.name}: {image} is in use by another program", hint=f"fuser -v {image}")


def _users(name: str, image: Path) -> Iterator[TdRecord]:
    """TDs that run with the same image, those that write to it first."""
    found = []
    for other in records.names():
        try:
            record = observe(other)
        except (SystemFault, UsageError):
            continue
        same = record.spec.image is not None and record.spec.image.resolve() == image.resolve()
        if other != name and same and record.state in ACTIVE:
            found.append(record)
    yield from sorted(found, key=lambda one: one.spec.overlay)

"""Sizes on the command line."""

from __future__ import annotations

from tdxstack.errors import UsageError


def memory_size(text: str) -> int:
    """Bytes of ``--memory``: a number, or one with K, M, G or T behind it.

    Raises:
        UsageError: it is none, or no TD's.
    """
    from tdxstack.vm.settings import read_size
    from tdxstack.vm.spec import MIB
    from tdxstack.vm.spec_rules import MIN_MEMORY

    try:
        size = read_size(text)
    except ValueError as fault:
        raise UsageError(f"--memory: {fault}") from None
    if size < MIN_MEMORY or size % MIB:
        raise UsageError(f"--memory: {text} is not a whole number of MiB from 64M", hint="e.g. --memory 2G")
    return size

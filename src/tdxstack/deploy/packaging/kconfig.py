"""Kernel configuration fragments: read, merged, and compared with the configuration that came out.

Form: lines ``CONFIG_NAME=value`` and ``# CONFIG_NAME is not set`` (Linux, Documentation/kbuild/kconfig.rst). A
fragment says what must hold; what Kconfig made of it is in ``.config``, where an option that lost its dependencies is
silently gone. That is what ``unmet`` finds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from tdxstack.errors import UsageError

_SET = re.compile(r'(CONFIG_[A-Za-z0-9_]+)=(y|m|-?\d+|0x[0-9a-fA-F]+|"(?:[^"\\]|\\.)*")')
_UNSET = re.compile(r"# (CONFIG_[A-Za-z0-9_]+) is not set")


def parse_fragment(name: str, text: str) -> dict[str, str]:
    """Option -> value (``n`` for "is not set") of a fragment.

    Raises:
        UsageError: a line that is neither an option nor a comment, or an option that is there twice.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        match, unset = _SET.fullmatch(line), _UNSET.fullmatch(line)
        if not match and not unset:
            if line.strip() and not line.startswith("#"):
                raise UsageError(f"{name}, line {number}: {line!r} is no kernel option")
            continue
        option, value = match.groups() if match else (unset[1] if unset else "", "n")
        if option in found:
            raise UsageError(f"{name}, line {number}: {option} is there twice")
        found[option] = value
    return found


def parse_config(text: str) -> dict[str, str]:
    """Option -> value of a ``.config``; options that are not set are left out."""
    return {match[1]: match[2] for match in map(_SET.fullmatch, text.splitlines()) if match}


def unmet(wanted: Mapping[str, str], config: Mapping[str, str]) -> list[str]:
    """What of ``wanted`` did not come out, one line each. ``m`` is met by ``y`` too."""
    lines = []
    for option, value in wanted.items():
        got = config.get(option, "n")
        if got != value and not (value == "m" and got == "y"):
            lines.append(f"{option}: wanted {value}, is {got}")
    return lines

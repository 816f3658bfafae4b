"""``sgx_default_qcnl.conf``: JSON with ``//`` and ``/* */`` comments, read by Intel's quote provider library.

Keys and defaults: Intel SGX and TDX DCAP, ``QuoteGeneration/qcnl/linux/sgx_default_qcnl.conf``. An edit
changes single values and leaves comments, order and everything else as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tdxstack.errors import WireError

STRUCTURE = "sgx_default_qcnl.conf"
MAX_SIZE = 1 << 20
#: Key -> type of its value; ``float`` is any number. The library ignores a value of another type in silence.
KEYS: dict[str, type] = {
    "pccs_url": str,
    "use_secure_cert": bool,
    "collateral_service": str,
    "tcb_update_type": str,
    "pccs_api_version": str,
    "retry_times": int,
    "retry_delay": int,
    "local_pck_url": str,
    "pck_cache_expire_hours": float,
    "verify_collateral_cache_expire_hours": float,
    "local_cache_only": bool,
    "custom_request_options": dict,
}
#: ``retry_times`` and ``retry_delay`` are numbers of 32 bits with a sign.
_MAX_INT = (1 << 31) - 1
Value = str | bool | int | float | dict[str, Any]


@dataclass(frozen=True, slots=True)
class QcnlConfig:
    """A configuration as text, with its values."""

    text: str
    values: Mapping[str, Any]

    @classmethod
    def from_text(cls, text: str) -> QcnlConfig:
        """Read a configuration.

        Raises:
            WireError: not JSON with comments, or not an object.
        """
        if len(text) > MAX_SIZE:
            raise WireError(STRUCTURE, "file", 0, f"{len(text)} characters, at most {MAX_SIZE}")
        plain = without_comments(text)
        try:
            values = json.loads(plain, object_pairs_hook=_first_wins, parse_constant=_no_constant)
        except json.JSONDecodeError as error:
            raise WireError(STRUCTURE, "JSON", error.pos, error.msg) from error
        except (ValueError, RecursionError) as error:
            raise WireError(STRUCTURE, "JSON", 0, "a number too long, or nested too deeply") from error
        if not isinstance(values, dict):
            raise WireError(STRUCTURE, "JSON", 0, "not an object")
        return cls(text, values)

    @classmethod
    def empty(cls) -> QcnlConfig:
        return cls("{\n}\n", {})

    @property
    def unknown_keys(self) -> list[str]:
        """Keys that the library does not know: it ignores them in silence (they are case-sensitive)."""
        return sorted(set(self.values) - set(KEYS))

    @property
    def wrong_values(self) -> list[str]:
        """Known keys with values that the library ignores in silence."""
        return sorted(key for key, value in self.values.items() if key in KEYS and not fits(key, value))

    @property
    def pccs_url(self) -> str:
        value = self.values.get("pccs_url", "")
        return value if isinstance(value, str) else ""

    @property
    def use_secure_cert(self) -> bool:
        """Whether the server's certificate is verified; the library's default is yes."""
        return self.values.get("use_secure_cert") is not False

    def with_values(self, changes: Mapping[str, Value]) -> QcnlConfig:
        """The configuration with these values set, and all else as it was.

        Raises:
            WireError: a key that the library does not know, or a value of the wrong type.
        """
        text = self.text
        for key, value in changes.items():
            if key not in KEYS or not fits(key, value):
                raise WireError(
                    STRUCTURE, key, 0, "no such key" if key not in KEYS else f"{value!r} is of the wrong type"
                )
            text = _set(text, key, value)
        return QcnlConfig.from_text(text)


def fits(key: str, value: object) -> bool:
    """Whether the library takes such a value for the key, which is a known one."""
    kind = KEYS[key]
    if kind is float:
        return type(value) in (int, float) and 0 <= value < float("inf")  # type: ignore[operator]
    return type(value) is kind and (kind is not int or 0 <= value <= _MAX_INT)  # type: ignore[operator]


def _first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """As the library reads a member that is there twice."""
    return dict(reversed(pairs))


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*"|//[^\n]*|/\*.*?\*/', re.DOTALL)


def without_comments(text: str) -> str:
    """The text with comments as blanks, so that offsets stay."""

    def blank(found: re.Match[str]) -> str:
        token = found[0]
        return token if token.startswith('"') else re.sub(r"[^\n]", " ", token)

    return _TOKEN.sub(blank, text)


def _set(text: str, key: str, value: Value) -> str:
    plain = without_comments(text)
    for start, stop in _values_of(plain, key):
        return text[:start] + json.dumps(value) + text[stop:]
    end = plain.rindex("}")
    before = plain[:end].rstrip()
    comma = "" if before.endswith("{") else ","
    cut = len(before)
    return f"{text[:cut]}{comma}{text[cut:end].rstrip()}\n  {json.dumps(key)}: {json.dumps(value)}\n{text[end:]}"


def _values_of(plain: str, key: str) -> Iterator[tuple[int, int]]:
    """Spans of the key's value at the top level."""
    decoder = json.JSONDecoder()
    depth = 0
    at = 0
    while at < len(plain):
        character = plain[at]
        depth += (character in "{[") - (character in "}]")
        if character == '"':
            name, at = decoder.raw_decode(plain, at)
            rest = re.compile(r"\s*:\s*").match(plain, at)
            if depth == 1 and name == key and rest:
                _, stop = decoder.raw_decode(plain, rest.end())
                yield rest.end(), stop
            continue
        at += 1

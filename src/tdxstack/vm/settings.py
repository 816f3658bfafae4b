"""How a setting is written: one codec per kind, used alike by the command line, TOML, JSON and the documentation.

A codec reads what TOML, JSON or an argv word may hold and gives the Python value, or raises ``ValueError`` with what
is wrong; and it writes the value back as something that TOML and JSON can hold.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
MAX_NAME = 40


@dataclass(frozen=True, slots=True)
class Codec:
    """One kind of value. ``metavar`` stands for it in help texts, ``schema`` describes it in JSON Schema."""

    metavar: str
    read: Callable[[Any], Any]
    write: Callable[[Any], Any]
    schema: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting: name as in TOML, its codec and one line of help."""

    name: str
    codec: Codec
    help: str
    repeated: bool = False

    @property
    def flag(self) -> str:
        """The option on the command line; a list's option gives one element and is written in the singular."""
        word = self.name.removesuffix("s") if self.repeated else self.name
        return "--" + word.replace("_", "-")


def read_size(value: object) -> int:
    """Bytes from a number, or from text with K, M, G or T (powers of 1024)."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = re.fullmatch(r"(\d+)\s*([KMGT]?)(?:i?B)?", str(value).strip(), re.IGNORECASE)
    if match is None:
        raise ValueError(f"{value!r} is not a size (write 2G, 2048M or bytes)")
    return int(match[1]) * UNITS[match[2].upper()]


def write_size(size: int) -> str:
    """The shortest text that ``read_size`` turns back into ``size``."""
    for unit in ("T", "G", "M", "K"):
        if size and size % UNITS[unit] == 0:
            return f"{size // UNITS[unit]}{unit}"
    return str(size)


def _read_integer(value: object) -> int:
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is not a number")
    if isinstance(value, int):
        return value
    try:
        return int(str(value), 0)
    except ValueError:
        raise ValueError(f"{value!r} is not a number") from None


def _read_flag(value: object) -> bool:
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    if isinstance(value, bool):
        return value
    if str(value).lower() not in words:
        raise ValueError(f"{value!r} is neither true nor false")
    return words[str(value).lower()]


def _read_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a string")
    if "\0" in value or "\n" in value:
        raise ValueError("holds a line break or a NUL")
    return value


def _read_name(value: object) -> str:
    text = _read_text(value)
    if not NAME.fullmatch(text) or len(text) > MAX_NAME:
        raise ValueError(
            f"{text!r} is not a name (letters, digits, '_', '.', '-', first a letter or digit, at most {MAX_NAME})"
        )
    return text


def _read_mac(value: object) -> str:
    text = _read_text(value).lower().replace("-", ":")
    if not MAC.fullmatch(text):
        raise ValueError(f"{value!r} is not a MAC address (write 52:54:00:12:34:56)")
    if int(text[:2], 16) & 1:
        raise ValueError(f"{value!r} is a multicast address (the first byte must be even)")
    return text


def _read_digest(value: object) -> bytes:
    """48 bytes in hex, or in base64 as QEMU and libvirt of today take them. 64 hex digits would be base64 too, of
    other bytes than whoever wrote a SHA-256 digest meant.
    """
    text = _read_text(value).strip()
    if re.fullmatch(r"[0-9a-fA-F]{96}", text):
        return bytes.fromhex(text)
    if re.fullmatch(r"[A-Za-z0-9+/]{64}", text) and not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        return base64.b64decode(text)
    raise ValueError(f"needs 96 hex digits (48 bytes, or base64 of them), got {len(text)} characters")


def _read_path(value: object) -> Path:
    if isinstance(value, Path):
        return value
    text = _read_text(value)
    if not text:
        raise ValueError("is an empty path")
    return Path(text).expanduser()


def choice(enum: type[Enum]) -> Codec:
    """A codec for an Enum whose values are its words."""
    words = [member.value for member in enum]

    def read(value: object) -> Enum:
        if value not in words:
            raise ValueError(f"{value!r} is none of {', '.join(words)}")
        return enum(value)

    return Codec("|".join(words), read, lambda member: member.value, {"enum": words})


#: Hex, or base64 that is not hex.
DIGEST_PATTERN = "^([0-9a-fA-F]{96}|(?![0-9a-fA-F]{64}$)[A-Za-z0-9+/]{64})$"
FLAG = Codec("BOOL", _read_flag, bool, {"type": "boolean"})
INTEGER = Codec("N", _read_integer, int, {"type": "integer"})
SIZE = Codec("SIZE", read_size, write_size, {"type": ["string", "integer"]})
TEXT = Codec("TEXT", _read_text, str, {"type": "string"})
TD_NAME = Codec("NAME", _read_name, str, {"type": "string", "pattern": f"^{NAME.pattern}$", "maxLength": MAX_NAME})
PATH = Codec("FILE", _read_path, str, {"type": "string"})
MAC_ADDRESS = Codec("MAC", _read_mac, str, {"type": "string"})
DIGEST = Codec("HEX96", _read_digest, lambda value: value.hex(), {"type": "string", "pattern": DIGEST_PATTERN})
HEXADECIMAL = Codec("HEX", _read_integer, hex, {"type": ["string", "integer"]})

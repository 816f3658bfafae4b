"""Settings as a TOML file: every key is a field of a dataclass, with its type, default and help."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import field
from pathlib import Path
from typing import Any, TypeVar

from tdxstack.errors import UsageError

T = TypeVar("T")
_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "list[str]": (list,),
}


def setting(default: Any, help_text: str) -> Any:
    """A field with its help."""
    return field(default=default, metadata={"help": help_text})


def read_settings(kind: type[T], path: Path) -> T:
    """Read a file into the dataclass ``kind``.

    Raises:
        UsageError: it cannot be read, has a key that is not known, or a value that is not allowed.
    """
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", hint="make one with the verb init") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {error}") from None
    known = {one.name: one for one in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name, value in values.items():
        if name not in known:
            raise UsageError(f"{path}: {name} is not a setting", hint=f"known are {', '.join(known)}")
        _check_type(path, name, value, str(known[name].type))
    return kind(**values)


def write_settings(settings: Any) -> str:
    """The file's text, each setting with its help."""
    lines = []
    for one in dataclasses.fields(settings):
        lines += [f"# {one.metadata['help']}", f"{one.name} = {_toml(getattr(settings, one.name))}", ""]
    return "\n".join(lines)


def _check_type(path: Path, name: str, value: Any, kind: str) -> None:
    right = isinstance(value, _TYPES[kind]) and (kind == "bool" or not isinstance(value, bool))
    if right and isinstance(value, list):
        right = all(isinstance(item, str) for item in value)
    if not right:
        raise UsageError(f"{path}: {name} is not of type {kind}")


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return str(value)

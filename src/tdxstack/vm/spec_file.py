"""A TdSpec as a TOML file: one setting per line."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tdxstack.errors import UsageError
from tdxstack.system.files import write_atomic
from tdxstack.vm.spec import TdSpec
from tdxstack.vm.spec_rules import checked


def loads(text: str, *, base: Path | None = None) -> TdSpec:
    """A checked spec from TOML text; relative paths are taken from ``base``.

    Raises:
        UsageError: not TOML, an unknown setting, a bad value, or settings that contradict each other.
    """
    return checked(TdSpec.from_mapping(parse(text, "the specification"), base=base))


def parse(text: str, origin: str) -> dict[str, Any]:
    """The settings in TOML text, not yet judged."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{origin} is not TOML: {error}", hint="see docs/reference/td.md for an example") from None


def read_settings(path: Path, named: Collection[str] = ()) -> dict[str, Any]:
    """The settings of a TOML file with its relative paths made absolute from the file's directory.

    A setting of ``named`` stays as it is where it holds no path but a name, and no file beside the TOML file has it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}", hint="give --spec an existing TOML file") from None
    base = path.absolute().parent
    values = {"name": path.stem, **parse(text, str(path))}
    kept = {name: values[name] for name in named if is_bare_name(values.get(name), base)}
    return TdSpec.from_mapping(values, base=base).to_mapping() | {"name": values["name"], **kept}


def is_bare_name(value: object, base: Path) -> bool:
    """Whether a setting holds a name, which is no path and of no file in ``base``."""
    return isinstance(value, str) and bool(value) and "/" not in value and not (base / value).is_file()


def read(path: Path) -> TdSpec:
    """A checked spec from a TOML file; the file's name stands in for a missing ``name``."""
    return checked(TdSpec.from_mapping(read_settings(path)))


def dumps(spec: TdSpec) -> str:
    """TOML text of every setting that differs from its default."""
    return dumps_settings(spec.to_mapping())


def dumps_settings(values: Mapping[str, Any]) -> str:
    """TOML text of settings."""
    return "".join(f"{name} = {_literal(value)}\n" for name, value in values.items())


def write(path: Path, spec: TdSpec) -> None:
    """Write the spec as a TOML file, whole or not at all."""
    write_atomic(path, dumps(spec))


def _literal(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_literal(one) for one in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    # A JSON string is a TOML basic string, but for DEL, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")

"""Guest images that can be built, as data: one TOML file per recipe under ``assets/recipes``."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tdxstack.errors import UsageError

ASSETS = Path(__file__).parent / "assets"
DEFAULT_RECIPE = "debian-13"
_UNITS = {"M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
#: A root file system smaller than this does not hold the smallest recipe.
MINIMUM_SIZE = 512 << 20
MAXIMUM_SIZE = 1 << 42


@dataclass(frozen=True, slots=True)
class Recipe:
    """What one guest image is made of. Sizes are in bytes; units, modules and packages are names.

    ``cmdline`` is the kernel command line of a direct boot. Modules of ``initrd_first`` are loaded before the root
    device is looked for, those of ``initrd_second`` if it does not appear. ``masked`` are units and
    ``masked_generators`` generators of systemd that never run in this image. The ``grub_`` entries say what a boot
    through GRUB takes: packages, where they put shim and GRUB, and the directory on the ESP where that GRUB looks for
    its configuration. ``python`` is a Python 3.11 or later. ``keys_by_unit`` is ``yes`` where systemd is too old to
    take ssh keys as a credential and a unit of ours does. ``built`` is ``yes`` for recipes that this project builds
    and boots in its tests; of the others the configuration is checked.
    """

    name: str
    title: str
    distribution: str
    release: str
    packages: tuple[str, ...]
    ssh_unit: str
    size: int
    cmdline: str
    modules: tuple[str, ...] = ()
    modules_denied: tuple[str, ...] = ()
    initrd_first: tuple[str, ...] = ()
    initrd_second: tuple[str, ...] = ()
    masked: tuple[str, ...] = ()
    masked_generators: tuple[str, ...] = ()
    repositories: tuple[str, ...] = ()
    python: str = "/usr/bin/python3"
    keys_by_unit: str = "no"
    built: str = "no"
    grub_packages: tuple[str, ...] = ()
    grub_shim: str = ""
    grub_binary: str = ""
    grub_directory: str = ""


def parse_size(text: str) -> int:
    """Bytes of a size such as ``2G`` or ``1536M``.

    Raises:
        UsageError: not a number with M, G or T behind it, or out of range.
    """
    match = re.fullmatch(r"(\d{1,6})([MGT])", text.strip().upper())
    size = int(match[1]) * _UNITS[match[2]] if match else 0
    if not MINIMUM_SIZE <= size <= MAXIMUM_SIZE:
        raise UsageError(f"{text!r} is not an image size", hint="give 512M or more, e.g. 2G")
    return size


def recipe_names() -> tuple[str, ...]:
    """Names of all recipes, sorted."""
    return tuple(sorted(path.stem for path in (ASSETS / "recipes").glob("*.toml")))


def load_recipe(name: str) -> Recipe:
    """The recipe called ``name``.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in recipe_names():
        raise UsageError(f"no recipe {name!r}", hint=f"one of: {', '.join(recipe_names())}")
    return parse_recipe(name, _table(name))


def _table(name: str) -> dict[str, Any]:
    """The TOML table of a recipe, over that of the recipe named by its ``base``, if it has one."""
    table = tomllib.loads((ASSETS / "recipes" / f"{name}.toml").read_text())
    base = table.pop("base", None)
    return table if base is None else _table(base) | {"built": "no"} | table


def parse_recipe(name: str, table: dict[str, Any]) -> Recipe:
    """A recipe from its TOML table.

    Raises:
        UsageError: a key that is missing, unknown or of the wrong type.
    """
    known = {field.name: field for field in fields(Recipe) if field.name != "name"}
    if unknown := sorted(set(table) - set(known)):
        raise UsageError(f"recipe {name}: unknown key {unknown[0]}")
    values: dict[str, Any] = {"name": name}
    for key, value in table.items():
        if key == "size":
            values[key] = parse_size(value)
        elif str(known[key].type).startswith("tuple"):
            values[key] = _strings(name, key, value)
        elif isinstance(value, str):
            values[key] = value
        else:
            raise UsageError(f"recipe {name}: {key} must be a string")
    try:
        return Recipe(**values)
    except TypeError as error:
        raise UsageError(f"recipe {name}: {error}") from None


def _strings(name: str, key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UsageError(f"recipe {name}: {key} must be a list of strings")
    return tuple(value)

"""Tables and Ansible roles kept as data beside this module."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def table(name: str) -> dict[str, Any]:
    """The table ``name``.toml of this package."""
    return tomllib.loads(files("tdxstack.deploy.data").joinpath(f"{name}.toml").read_text(encoding="utf-8"))

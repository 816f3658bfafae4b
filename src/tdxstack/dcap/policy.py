"""Appraisal policy: what else has to hold before evidence that verifies is accepted.

One TOML or JSON file; every setting is declared once, here, with type, default, help and, where Intel's own verifier
is silent, the reason for its default. The published schema and the reference page are made from it.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from tdxstack.dcap.policy_sections import (
    BindingPolicy,
    CollateralPolicy,
    EnclavePolicy,
    EventsPolicy,
    PlatformPolicy,
    TcbPolicy,
    TdPolicy,
)
from tdxstack.dcap.signed_json import load_object
from tdxstack.errors import UsageError

SCHEMA_NAME = "tdxstack/policy/v1"
MAX_POLICY_SIZE = 1 << 20

_SECTIONS: dict[str, type] = {
    "tcb": TcbPolicy,
    "collateral": CollateralPolicy,
    "platform": PlatformPolicy,
    "td": TdPolicy,
    "events": EventsPolicy,
    "enclave": EnclavePolicy,
    "binding": BindingPolicy,
}


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy; the default is the strict one."""

    name: str = "strict"
    tcb: TcbPolicy = field(default_factory=TcbPolicy)
    collateral: CollateralPolicy = field(default_factory=CollateralPolicy)
    platform: PlatformPolicy = field(default_factory=PlatformPolicy)
    td: TdPolicy = field(default_factory=TdPolicy)
    events: EventsPolicy = field(default_factory=EventsPolicy)
    enclave: EnclavePolicy = field(default_factory=EnclavePolicy)
    binding: BindingPolicy = field(default_factory=BindingPolicy)

    @classmethod
    def from_text(cls, text: str) -> Policy:
        """Read JSON (a text that starts with ``{``) or TOML. Raises UsageError, which names the setting at fault."""
        if len(text) > MAX_POLICY_SIZE:
            raise UsageError(f"policy: {len(text)} characters, more than {MAX_POLICY_SIZE}")
        is_json = text.lstrip().startswith("{")
        try:
            members = load_object(text, "JSON", flat=True) if is_json else tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"policy: {error}", hint="tdxctl policy check FILE") from None
        return cls.from_members(members)

    @classmethod
    def from_members(cls, members: Mapping[str, Any]) -> Policy:
        """Read the parsed form. Raises UsageError, which names the setting at fault."""
        rest = dict(members)
        if (schema := rest.pop("schema", SCHEMA_NAME)) != SCHEMA_NAME:
            raise UsageError(f"policy: schema {schema!r} is not {SCHEMA_NAME}")
        name = rest.pop("name", "unnamed")
        if not isinstance(name, str):
            raise UsageError("policy: name is not a text")
        _known("policy", rest, _SECTIONS)
        sections = {section: _section(section, kind, rest.get(section, {})) for section, kind in _SECTIONS.items()}
        return cls(name=name, **sections)

    @property
    def needs_log(self) -> bool:
        """Whether it has rules that only an event log can meet."""
        return self.events != EventsPolicy()

    def to_toml(self) -> str:
        """A TOML file with the settings that are not the default."""
        lines = []
        for section, values in self.to_members(defaults=False).items():
            if isinstance(values, dict):
                lines += ["", f"[{section}]"]
                # Lists of texts, numbers, true and false are written in TOML as in JSON.
                lines += [f"{name} = {json.dumps(value)}" for name, value in values.items()]
            else:
                lines.append(f"{section} = {json.dumps(values)}")
        return "\n".join(lines) + "\n"

    def to_members(self, *, defaults: bool = True) -> dict[str, Any]:
        """The parsed form, with all settings or only those that are not the default."""
        document: dict[str, Any] = {"schema": SCHEMA_NAME, "name": self.name}
        for section, kind in _SECTIONS.items():
            given, plain = getattr(self, section), kind()
            values = {
                item.name: _plain(item.metadata["kind"], getattr(given, item.name))
                for item in fields(kind)
                if defaults or getattr(given, item.name) != getattr(plain, item.name)
            }
            if values:
                document[section] = values
        return document


def pinned(name: str, mr_td: str, rtmrs: Sequence[str | None], events: Mapping[str, object] | None = None) -> Policy:
    """The strict policy with measurements in hexadecimal: MRTD, and the RTMRs that are known. Raises UsageError.

    Args:
        events: settings of ``[events]``, where the event log has to prove what no register's value can.
    """
    td: dict[str, Any] = {"mr_tds": [mr_td]}
    td |= {f"rtmr{index}": [value] for index, value in enumerate(rtmrs[:4]) if value is not None}
    return Policy.from_members({"name": name, "td": td} | ({"events": dict(events)} if events else {}))


def schema() -> dict[str, Any]:
    """The JSON Schema of a policy file."""
    sections = {}
    for section, kind in _SECTIONS.items():
        properties = {}
        for item in fields(kind):
            meta = item.metadata
            text = meta["help"] + (f" ({meta['reason']})" if meta["reason"] else "")
            properties[item.name] = {**_json_type(meta), "description": text}
            if item.default is None:
                properties[item.name]["anyOf"] = [*properties[item.name]["anyOf"], {"type": "null"}]
            else:
                properties[item.name]["default"] = _plain(meta["kind"], item.default)
        title = (kind.__doc__ or "").split(": ", 1)[1]
        sections[section] = {
            "type": "object",
            "description": title,
            "properties": properties,
            "additionalProperties": False,
        }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Appraisal policy of tdxctl",
        "type": "object",
        "properties": {"schema": {"const": SCHEMA_NAME}, "name": {"type": "string"}, **sections},
        "additionalProperties": False,
    }


_BITS_TYPE = {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^0x[0-9a-fA-F]{1,16}$"}]}
_COUNT_TYPE = {"type": "integer", "minimum": 0}
_JSON_TYPES: dict[str, dict[str, Any]] = {
    "bool": {"type": "boolean"},
    "count": _COUNT_TYPE,
    "counts": {"type": "array", "items": _COUNT_TYPE},
    "bits": _BITS_TYPE,
    "words": {"type": "array", "items": {"type": "string"}},
}


def _json_type(meta: Mapping[str, Any]) -> dict[str, Any]:
    if sizes := meta["sizes"]:
        one = {"type": "string", "pattern": f"^([0-9a-fA-F]{{2}}){{{sizes[0]},{sizes[-1]}}}$"}
        return {"anyOf": [one, {"type": "array", "items": one}]}
    if meta["choices"]:
        return {"type": "array", "items": {"enum": list(meta["choices"])}}
    return _JSON_TYPES[meta["kind"]]


def _known(where: str, given: Mapping[str, Any], allowed: Mapping[str, Any]) -> None:
    for name in given:
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, 1)
            hint = f"did you mean {near[0]}?" if near else "tdxctl policy explain"
            raise UsageError(f"{where}: no setting {name!r}", hint=hint)


def _section(section: str, kind: type, given: Any) -> Any:
    if not isinstance(given, Mapping):
        raise UsageError(f"policy: {section} is not a table")
    declared = {item.name: item.metadata for item in fields(kind)}
    _known(f"policy: {section}", given, declared)
    unset = {item.name for item in fields(kind) if item.default is None}  # null says so, as to_members writes it
    values = {name: value for name, value in given.items() if not (value is None and name in unset)}
    return kind(**{name: _read(f"{section}.{name}", declared[name], value) for name, value in values.items()})


def _read(where: str, meta: Mapping[str, Any], value: Any) -> Any:
    """One setting's value. Raises UsageError."""
    try:
        read = _READERS[meta["kind"]](value)
        if sizes := meta["sizes"]:
            _check_sizes(read, sizes)
        if choices := meta["choices"]:
            _check_choices(read, choices)
    except (ValueError, TypeError) as error:
        raise UsageError(f"policy: {where}: {error}", hint="tdxctl policy explain") from None
    return read


def _check_sizes(values: Sequence[bytes], sizes: range) -> None:
    wanted = str(sizes[0]) if len(sizes) == 1 else f"up to {sizes[-1]}"
    for value in values:
        if len(value) not in sizes:
            raise ValueError(f"{value.hex():.40} has {len(value)} bytes where {wanted} belong")


def _check_choices(values: Sequence[Any], choices: Sequence[Any]) -> None:
    for value in values:
        if value not in choices:
            raise ValueError(f"{value!r} is not one of {', '.join(map(str, choices))}")


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is not true or false")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a number")
    return value


def _bits(value: Any) -> int:
    number = int(value, 16) if isinstance(value, str) and value.startswith("0x") else value
    if type(number) is not int or not 0 <= number < 1 << 64:
        raise ValueError(f"{value!r} is not 64 bits (a number, or 0x and up to 16 digits)")
    return number


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{value!r} is not a list")
    return value


def _word(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text")
    return value


def _octets(value: Any) -> bytes:
    try:
        return bytes.fromhex(_word(value))
    except ValueError:
        raise ValueError(f"{value!r:.60} is not hexadecimal") from None


_READERS: dict[str, Any] = {
    "bool": _bool,
    "count": _count,
    "counts": lambda value: tuple(_count(item) for item in _list(value)),
    "bits": _bits,
    "hex": lambda value: tuple(_octets(item) for item in ([value] if isinstance(value, str) else _list(value))),
    "words": lambda value: tuple(_word(item) for item in _list(value)),
}


def _plain(kind: str, value: Any) -> Any:
    if kind == "hex":
        return [item.hex() for item in value]
    if kind == "bits":
        return None if value is None else f"{value:#x}"
    return list(value) if isinstance(value, tuple) else value

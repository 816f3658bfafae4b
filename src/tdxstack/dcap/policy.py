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

from tdxstack.dcap.status import TcbStatus
from tdxstack.errors import UsageError

SCHEMA_NAME = "tdxstack/policy/v1"
DAY = 24 * 3600
MAX_POLICY_SIZE = 1 << 20

#: XFAM bits that every TD has (x87, SSE), and all that a TDX module lets a TD have.
XFAM_FIXED1 = 0x3
XFAM_FIXED0 = 0x6DBE7

_HEX = r"^([0-9a-fA-F]{2})*$"
_STATUSES = [status.value for status in TcbStatus if status is not TcbStatus.REVOKED]


def setting(default: Any, kind: str, text: str, reason: str = "") -> Any:
    """A setting: ``kind`` is bool, count, bits, hex (one or several values), words or statuses."""
    return field(default=default, metadata={"kind": kind, "help": text, "reason": reason})


@dataclass(frozen=True, slots=True)
class TcbPolicy:
    """``[tcb]``: the platform's TCB."""

    accepted_statuses: tuple[str, ...] = setting(
        (TcbStatus.UP_TO_DATE.value,), "statuses", "launch statuses that are accepted"
    )
    accepted_current_statuses: tuple[str, ...] = setting(
        (), "statuses", "statuses by the module that runs now that are accepted; empty: any"
    )
    grace_days: int = setting(0, "count", "days after its date for which an out-of-date TCB is accepted all the same")
    rejected_advisories: tuple[str, ...] = setting((), "words", "advisories that must not apply, or '*' for any")
    accepted_advisories: tuple[str, ...] = setting((), "words", "the only advisories that may apply; empty: any")
    min_evaluation_number: int = setting(0, "count", "smallest tcbEvaluationDataNumber of TCB info and QE identity")
    require_equal_evaluation_numbers: bool = setting(
        True,
        "bool",
        "TCB info and QE identity have to be of one evaluation",
        "old QE identity beside new TCB info hides a quoting enclave that is out of date",
    )


@dataclass(frozen=True, slots=True)
class CollateralPolicy:
    """``[collateral]``: the collateral and the certificates."""

    grace_days: int = setting(0, "count", "days for which expired collateral is accepted all the same")
    require_not_before: bool = setting(
        True, "bool", "certificates have to be valid already", "a certificate from the future means a wrong clock"
    )
    require_issued: bool = setting(
        True, "bool", "documents have to be issued already", "a document from the future means a wrong clock"
    )
    require_low_s: bool = setting(
        False,
        "bool",
        "the quote's signature must not be the malleable twin (s <= n/2)",
        "genuine quoting enclaves sign with either; set it where the bytes of a quote serve as a name",
    )
    require_qe_report_data_tail: bool = setting(
        True,
        "bool",
        "bytes 32 to 63 of the QE's report data have to be zero",
        "Intel's quoting enclaves set zeros; other bytes come from another enclave",
    )
    require_named_pck: bool = setting(
        True,
        "bool",
        "a quote that only names its PCK certificate (certification data 1 to 3) has to name the one brought along",
        "else the platform that the quote names is not the one that was judged",
    )
    require_reserved_header: bool = setting(
        True,
        "bool",
        "reserved bytes of a version 4 and 5 header have to be zero",
        "bytes that mean nothing today may mean something tomorrow",
    )


@dataclass(frozen=True, slots=True)
class PlatformPolicy:
    """``[platform]``: which machines."""

    tees: tuple[str, ...] = setting(("tdx", "sgx"), "words", "kinds of evidence: tdx, sgx")
    allow_software: bool = setting(
        True,
        "bool",
        "software platforms are accepted",
        "only a root that the caller names can make a software platform's evidence verify",
    )
    fmspcs: tuple[bytes, ...] = setting((), "hex", "FMSPCs (6 bytes); empty: any")
    instance_ids: tuple[bytes, ...] = setting((), "hex", "platform instance ids (16 bytes); empty: any")
    ppids: tuple[bytes, ...] = setting((), "hex", "PPIDs (16 bytes); empty: any")
    allow_dynamic_platform: bool = setting(True, "bool", "platforms that can be extended by packages")
    allow_cached_keys: bool = setting(True, "bool", "platforms whose keys the registration service keeps")
    allow_smt: bool = setting(True, "bool", "platforms with simultaneous multithreading")
    sgx_types: tuple[int, ...] = setting((), "counts", "memory protection: 0 standard, 1 scalable, 2 with integrity")


@dataclass(frozen=True, slots=True)
class TdPolicy:
    """``[td]``: the trust domain."""

    allow_debug: bool = setting(
        False, "bool", "TDs in debug mode", "the host reads and writes a debug TD's memory; nothing in it is secret"
    )
    allow_reserved_attributes: bool = setting(
        False, "bool", "attribute bits without a meaning", "a bit unknown today may weaken the TD tomorrow"
    )
    require_sept_ve_disable: bool = setting(
        True,
        "bool",
        "SEPT_VE_DISABLE has to be set",
        "else the host can inject #VE at any memory access by taking the page away",
    )
    allow_migratable: bool = setting(
        False, "bool", "TDs that may be migrated", "it may run under another TCB than the quote's tomorrow"
    )
    allow_pks: bool = setting(True, "bool", "TDs with supervisor protection keys", "protects; takes nothing away")
    allow_key_locker: bool = setting(False, "bool", "TDs with Key Locker", "its keys are not part of the TDX promise")
    allow_perfmon: bool = setting(
        True, "bool", "TDs with performance counters", "bits 32 to 63 do not bear on the TD's security"
    )
    attributes: int | None = setting(None, "bits", "TD attributes, exactly, under the mask")
    attributes_mask: int = setting(2**64 - 1, "bits", "bits of attributes that are compared")
    xfam: int | None = setting(None, "bits", "XFAM, exactly, under the mask")
    xfam_mask: int = setting(2**64 - 1, "bits", "bits of xfam that are compared")
    check_xfam_fixed_bits: bool = setting(
        True, "bool", "XFAM has to be one that a TDX module allows", "another one does not come from a TDX module"
    )
    allow_service_td: bool = setting(
        False,
        "bool",
        "TDs bound to a service TD (MR_SERVICETD not zero)",
        "a service TD, such as a migration TD, can take part in the TD's state",
    )
    mr_service_tds: tuple[bytes, ...] = setting((), "hex", "MR_SERVICETD that are accepted (48 bytes)")
    mr_seams: tuple[bytes, ...] = setting(
        (),
        "hex",
        "MRSEAM that are accepted (48 bytes); empty: any",
        "Intel signs every TDX module, also one with a known flaw; a list pins releases",
    )
    mr_tds: tuple[bytes, ...] = setting((), "hex", "MRTD that are accepted (48 bytes); empty: any")
    rtmr0: tuple[bytes, ...] = setting((), "hex", "RTMR0 that are accepted; empty: any")
    rtmr1: tuple[bytes, ...] = setting((), "hex", "RTMR1 that are accepted; empty: any")
    rtmr2: tuple[bytes, ...] = setting((), "hex", "RTMR2 that are accepted; empty: any")
    rtmr3: tuple[bytes, ...] = setting((), "hex", "RTMR3 that are accepted; empty: any")
    mr_config_ids: tuple[bytes, ...] = setting((), "hex", "MRCONFIGID that are accepted; empty: any")
    mr_owners: tuple[bytes, ...] = setting((), "hex", "MROWNER that are accepted; empty: any")
    mr_owner_configs: tuple[bytes, ...] = setting((), "hex", "MROWNERCONFIG that are accepted; empty: any")


@dataclass(frozen=True, slots=True)
class EnclavePolicy:
    """``[enclave]``: an SGX enclave."""

    allow_debug: bool = setting(False, "bool", "enclaves in debug mode", "the host reads a debug enclave's memory")
    mr_enclaves: tuple[bytes, ...] = setting((), "hex", "MRENCLAVE that are accepted (32 bytes); empty: any")
    mr_signers: tuple[bytes, ...] = setting((), "hex", "MRSIGNER that are accepted (32 bytes); empty: any")
    isv_prod_ids: tuple[int, ...] = setting((), "counts", "ISVPRODID that are accepted; empty: any")
    min_isv_svn: int = setting(0, "count", "smallest ISVSVN")


@dataclass(frozen=True, slots=True)
class BindingPolicy:
    """``[binding]``: what the evidence has to be about."""

    report_data: tuple[bytes, ...] = setting(
        (), "hex", "REPORTDATA that are accepted (up to 64 bytes, zeros are added); empty: any"
    )


_SECTIONS: dict[str, type] = {
    "tcb": TcbPolicy,
    "collateral": CollateralPolicy,
    "platform": PlatformPolicy,
    "td": TdPolicy,
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
    enclave: EnclavePolicy = field(default_factory=EnclavePolicy)
    binding: BindingPolicy = field(default_factory=BindingPolicy)

    @classmethod
    def from_text(cls, text: str) -> Policy:
        """Read JSON (a text that starts with ``{``) or TOML. Raises UsageError, which names the setting at fault."""
        if len(text) > MAX_POLICY_SIZE:
            raise UsageError(f"policy: {len(text)} characters, more than {MAX_POLICY_SIZE}")
        try:
            members = json.loads(text) if text.lstrip().startswith("{") else tomllib.loads(text)
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


def pinned(name: str, mr_td: str, rtmrs: Sequence[str | None]) -> Policy:
    """The strict policy with measurements in hexadecimal: MRTD, and the RTMRs that are known. Raises UsageError."""
    td: dict[str, Any] = {"mr_tds": [mr_td]}
    td |= {f"rtmr{index}": [value] for index, value in enumerate(rtmrs[:4]) if value is not None}
    return Policy.from_members({"name": name, "td": td})


def schema() -> dict[str, Any]:
    """The JSON Schema of a policy file."""
    sections = {}
    for section, kind in _SECTIONS.items():
        properties = {}
        for item in fields(kind):
            meta = item.metadata
            text = meta["help"] + (f" ({meta['reason']})" if meta["reason"] else "")
            properties[item.name] = {**_JSON_TYPES[meta["kind"]], "description": text}
            if item.default is not None:
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


_HEX_TYPE = {"type": "string", "pattern": _HEX}
_BITS_TYPE = {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^0x[0-9a-fA-F]{1,16}$"}]}
_COUNT_TYPE = {"type": "integer", "minimum": 0}
_JSON_TYPES: dict[str, dict[str, Any]] = {
    "bool": {"type": "boolean"},
    "count": _COUNT_TYPE,
    "counts": {"type": "array", "items": _COUNT_TYPE},
    "bits": _BITS_TYPE,
    "hex": {"anyOf": [_HEX_TYPE, {"type": "array", "items": _HEX_TYPE}]},
    "words": {"type": "array", "items": {"type": "string"}},
    "statuses": {"type": "array", "items": {"enum": _STATUSES}},
}


def _known(where: str, given: Mapping[str, Any], allowed: Mapping[str, Any]) -> None:
    for name in given:
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, 1)
            hint = f"did you mean {near[0]}?" if near else "tdxctl policy explain"
            raise UsageError(f"{where}: no setting {name!r}", hint=hint)


def _section(section: str, kind: type, given: Any) -> Any:
    if not isinstance(given, Mapping):
        raise UsageError(f"policy: {section} is not a table")
    declared = {item.name: item.metadata["kind"] for item in fields(kind)}
    _known(f"policy: {section}", given, declared)
    return kind(**{name: _read(f"{section}.{name}", declared[name], value) for name, value in given.items()})


def _read(where: str, kind: str, value: Any) -> Any:
    """One setting's value. Raises UsageError."""
    try:
        return _READERS[kind](value)
    except (ValueError, TypeError) as error:
        raise UsageError(f"policy: {where}: {error}") from None


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


def _status(value: Any) -> str:
    if value not in _STATUSES:
        raise ValueError(f"{value!r} is not one of {', '.join(_STATUSES)}")
    return str(value)


_READERS: dict[str, Any] = {
    "bool": _bool,
    "count": _count,
    "counts": lambda value: tuple(_count(item) for item in _list(value)),
    "bits": _bits,
    "hex": lambda value: tuple(
        bytes.fromhex(_word(item)) for item in ([value] if isinstance(value, str) else _list(value))
    ),
    "words": lambda value: tuple(_word(item) for item in _list(value)),
    "statuses": lambda value: tuple(_status(item) for item in _list(value)),
}


def _plain(kind: str, value: Any) -> Any:
    if kind == "hex":
        return [item.hex() for item in value]
    if kind == "bits":
        return None if value is None else f"{value:#x}"
    return list(value) if isinstance(value, tuple) else value

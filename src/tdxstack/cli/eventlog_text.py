"""Event logs as documents, tables and YAML."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tdxstack.measure.check import digest_matches_data
from tdxstack.measure.describe import describe, register_name
from tdxstack.wire.tcg import Algorithm, Event, event_type_name

if TYPE_CHECKING:
    from tdxstack.measure.logs import LoadedLog

_ALGORITHMS = {
    Algorithm.SHA1: "sha1",
    Algorithm.SHA256: "sha256",
    Algorithm.SHA384: "sha384",
    Algorithm.SHA512: "sha512",
    Algorithm.SM3_256: "sm3_256",
}


def event_members(event: Event, *, tpm: bool = False) -> dict[str, Any]:
    """One event as plain values. In a TPM's log the index is a PCR's."""
    digests = {
        _ALGORITHMS[Algorithm(algorithm)] if algorithm in _ALGORITHMS else f"0x{algorithm:04x}": value.hex()
        for algorithm, value in event.digests
    }
    return {
        "index": event.mr_index,
        "register": f"PCR{event.mr_index}" if tpm else register_name(event.mr_index),
        "type": event.event_type,
        "type_name": event_type_name(event.event_type),
        "description": describe(event),
        "digests": digests,
        "digest_matches_data": digest_matches_data(event),
        "data": event.data.hex(),
        "offset": event.offset,
    }


def log_members(loaded: LoadedLog) -> dict[str, Any]:
    """The log as plain values, for ``tdxstack/eventlog/v1``."""
    from tdxstack.measure.check import false_descriptions
    from tdxstack.measure.logs import LogFormat

    header = loaded.original.header
    problems = [*loaded.problems, *false_descriptions(loaded.original.events)]
    if loaded.fault is not None:
        problems.insert(0, str(loaded.fault))
    return {
        "format": loaded.format.value,
        "algorithms": [
            {
                "id": algorithm,
                "name": _ALGORITHMS.get(Algorithm(algorithm), "") if algorithm in _ALGORITHMS else "",
                "size": size,
            }
            for algorithm, size in header.algorithms
        ],
        "events": [
            {"number": number, **event_members(event, tpm=loaded.format is LogFormat.TPM)}
            for number, event in enumerate(loaded.original.events)
        ],
        "truncated_at": None if loaded.fault is None else loaded.fault.offset,
        "problems": problems,
    }


def log_table(loaded: LoadedLog, body: dict[str, Any]) -> str:
    """The log for people: one line for each event."""
    lines = [f"{'#':>4} {'register':8} {'type':32} {'digest':18} what was measured"]
    for event in body["events"]:
        digests = event["digests"]
        digest = digests.get("sha384") or next(iter(digests.values()), "")
        mark = " (!)" if event["digest_matches_data"] is False else ""
        kind = event["type_name"].removeprefix("EV_")
        lines.append(
            f"{event['number']:>4} {event['register']:8} {kind:32} {digest[:16]:18} {event['description']}{mark}"
        )
    lines += [f"problem: {text}" for text in body["problems"]]
    return "\n".join(lines)


def replay_text(body: dict[str, Any]) -> str:
    """A replay for people."""
    lines = [f"{body['events']} events ({body['format']})"]
    for number, value in enumerate(body["rtmr"]):
        verdict = ""
        if body["matches"] is not None:
            verdict = "  matches" if body["matches"][number] else f"  DIFFERS from {body['quoted'][number]}"
        lines.append(f"RTMR{number} {value}{verdict}")
    if ima := body["ima"]:
        covered = "no number of them leads to RTMR2" if ima["covered"] is None else f"RTMR2 covers {ima['covered']}"
        lines.append(f"IMA   {ima['entries']} entries: {covered}")
    lines += [f"problem: {text}" for text in body["problems"]]
    return "\n".join(lines)


def diff_text(body: dict[str, Any]) -> str:
    """Differences for people."""
    if body["same"]:
        return "the logs lead to the same registers by the same events"
    lines: list[str] = []
    for one in body["differences"]:
        lines.append(f"{one['register']}, event {one['position']}:")
        for side, event in (("A", one["first"]), ("B", one["second"])):
            if event is None:
                lines.append(f"  {side} (no further event)")
            else:
                digest = next(iter(event["digests"].values()), "")
                lines.append(f"  {side} {event['type_name']} {digest[:16]} {event['description']}")
    return "\n".join(lines)


def yaml_text(value: Any, indent: int = 0) -> str:
    """A document of dicts, lists and scalars as YAML; strings are written as JSON strings, which YAML takes."""
    import json

    pad = "  " * indent
    if isinstance(value, dict):
        return "".join(_yaml_entry(f"{pad}{key}:", item, indent) for key, item in value.items())
    if isinstance(value, list):
        parts: list[str] = []
        for item in value:
            if isinstance(item, dict | list) and item:
                inner = yaml_text(item, indent + 1)
                parts.append(f"{pad}- {inner[len(pad) + 2 :]}")
            else:
                parts.append(f"{pad}- {json.dumps(item)}\n")
        return "".join(parts)
    return f"{pad}{json.dumps(value)}\n"


def _yaml_entry(head: str, item: Any, indent: int) -> str:
    import json

    if isinstance(item, dict | list) and item:
        return f"{head}\n{yaml_text(item, indent + 1)}"
    return f"{head} {json.dumps(item)}\n"

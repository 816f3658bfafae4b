"""What a QEMU binary can do, asked of itself by QMP on a machine without anything (``-M none``).

No guess is made from version numbers: distributions patch TDX into old versions and leave it out of new ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tdxstack.errors import PlatformMissing, SystemFault
from tdxstack.system import paths
from tdxstack.system.files import write_cache
from tdxstack.system.process import find, run
from tdxstack.vm.dialects import CANONICAL, TDX15, UPSTREAM, Dialect, of_version

PROBE_TIMEOUT = 30.0
#: Each dialect by the properties of ``tdx-guest`` that only it has; the first that fits counts.
SIGNS: tuple[tuple[str, Dialect], ...] = (
    ("quote-generation-service", TDX15),
    ("migtd-pid", TDX15),
    ("attributes", UPSTREAM),
    ("quote-generation-socket", CANONICAL),
    ("sept-ve-disable", CANONICAL),
)


@dataclass(frozen=True, slots=True)
class QemuFacts:
    """One binary: its version, and the properties of its ``tdx-guest`` object; None where it has no such object."""

    version: tuple[int, int, int]
    tdx_properties: frozenset[str] | None


def probe(qemu: str) -> QemuFacts:
    """Ask ``qemu``; the answer is kept until the binary changes.

    Raises:
        ProgramMissing: there is no such binary.
        SystemFault: it does not answer as a QEMU does.
    """
    binary = Path(find(qemu)).resolve()
    status = binary.stat()
    key = f"{binary}:{status.st_mtime_ns}:{status.st_size}"
    cache = paths.cache() / "qemu-probe.json"
    known = _cached(cache)
    if key not in known:
        known = {key: ask(str(binary))}
        write_cache(cache.parent, cache.name, json.dumps(known) + "\n")
    return read(known[key])


def ask(binary: str) -> dict[str, Any]:
    """The answers of a binary, as JSON holds them."""
    requests = [
        {"execute": "qmp_capabilities"},
        {"execute": "query-version"},
        {"execute": "qom-list-properties", "arguments": {"typename": "tdx-guest"}},
        {"execute": "quit"},
    ]
    stdin = "".join(json.dumps(request) + "\n" for request in requests).encode()
    argv = [binary, "-M", "none", "-nodefaults", "-display", "none", "-qmp", "stdio"]
    output = run(argv, timeout=PROBE_TIMEOUT, stdin=stdin).stdout
    try:
        answers = list(_answers(output))
        version = answers[1]["return"]["qemu"]
        properties = answers[2].get("return")
        names = None if properties is None else sorted(one["name"] for one in properties)
        return {"version": [version["major"], version["minor"], version["micro"]], "tdx_properties": names}
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise SystemFault(
            f"{binary} does not answer as QEMU does: {error}", hint="reinstall QEMU: make setup"
        ) from error


def read(values: dict[str, Any]) -> QemuFacts:
    """Facts from what ``ask`` gave."""
    major, minor, micro = values["version"]
    names = values["tdx_properties"]
    return QemuFacts((major, minor, micro), None if names is None else frozenset(names))


def _answers(output: bytes) -> Iterator[dict[str, Any]]:
    """Answers in the order of the requests; greeting and events left out."""
    for line in output.splitlines():
        message = json.loads(line)
        if "return" in message or "error" in message:
            yield message


def _cached(cache: Path) -> dict[str, Any]:
    try:
        values = json.loads(cache.read_bytes())
        return values if isinstance(values, dict) else {}
    except (OSError, ValueError):
        return {}


def dialect_of(facts: QemuFacts, qemu: str) -> Dialect:
    """The dialect of TDX that a QEMU speaks.

    Raises:
        PlatformMissing: it has no ``tdx-guest`` object, or one that is not known.
    """
    version = ".".join(map(str, facts.version))
    if facts.tdx_properties is None:
        raise PlatformMissing(
            f"{qemu} {version} has no tdx-guest object: it cannot run a TD on hardware",
            hint="install QEMU 10.1 or later built with TDX, or use the software platform (platform = software)",
        )
    for sign, dialect in SIGNS:
        if sign in facts.tdx_properties:
            return of_version(dialect, facts.version)
    raise PlatformMissing(
        f"{qemu} {version} has a tdx-guest object of no known dialect ({', '.join(sorted(facts.tdx_properties))})",
        hint="name the dialect: --dialect tdx15, canonical or upstream",
    )

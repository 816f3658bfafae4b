"""Whether a TDX module may take another's place while TDs run: the vendor's mapping file, and what the rules say.

Rules (Intel TDX module releases, ``mapping_file.json`` and its loader): same major.minor; not older; what runs is at
least ``min_module_version_for_td_preserving``; a P-SEAMLDR of one of the listed lines, not older; a listed CPU.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tdxstack.errors import WireError

Version = tuple[int, int, int]
MAX_RELEASES = 4096


def parse_version(text: str) -> Version:
    """``1.5.06`` as (1, 5, 6).

    Raises:
        WireError: not three numbers.
    """
    found = re.fullmatch(r"([0-9]{1,5})\.([0-9]{1,5})\.([0-9]{1,5})(?:\.[0-9]+)?", text.strip())
    if found is None:
        raise WireError("TDX module version", "text", 0, f"{text[:40]!r}")
    return int(found[1]), int(found[2]), int(found[3])


def version_text(version: Version) -> str:
    """(1, 5, 6) as ``1.5.06``, the way releases are named."""
    return f"{version[0]}.{version[1]}.{version[2]:02d}"


@dataclass(frozen=True, slots=True)
class Release:
    """One release of the mapping file."""

    version: Version
    preserves_from: Version
    loaders: tuple[Version, ...]
    features: int

    @classmethod
    def from_json(cls, entry: Any) -> Release:
        try:
            return cls(
                version=parse_version(entry["version"]),
                preserves_from=parse_version(entry["min_module_version_for_td_preserving"]),
                loaders=tuple(parse_version(one) for one in entry["min_seamldr_versions"]),
                features=int(entry["tdx_feature0"], 16),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise WireError(
                "mapping_file.json", "tdx_module_releases", 0, f"{type(error).__name__}: {error}"
            ) from error


def read_mapping(text: str) -> dict[Version, Release]:
    """The releases of a mapping file.

    Raises:
        WireError: not such a file.
    """
    try:
        entries = json.loads(text)["tdx_module_releases"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WireError("mapping_file.json", "JSON", 0, f"{type(error).__name__}: {error}") from error
    if not isinstance(entries, list) or len(entries) > MAX_RELEASES:
        raise WireError("mapping_file.json", "tdx_module_releases", 0, "not a list of releases")
    releases = [Release.from_json(entry) for entry in entries]
    return {release.version: release for release in releases}


@dataclass(frozen=True, slots=True)
class Present:
    """What runs now. None where it is not known; ``updates_left`` is P-SEAMLDR's count."""

    version: Version
    loader: Version | None = None
    cpu: int | None = None
    updates_left: int | None = None


def reasons_against(
    present: Present, release: Release, cpus: Sequence[int] = (), *, debug: bool = False
) -> list[str]:
    """Why ``release`` may not take the place of what runs; empty where it may.

    Args:
        cpus: CPUID.1.EAX values that the module's signature structure lists; empty where they are not known.
        debug: whether it is a debug module.
    """
    running, new = version_text(present.version), version_text(release.version)
    reasons = []
    if present.version[:2] != release.version[:2]:
        reasons.append(f"{new} is of another line than the running {running}: only a reboot changes lines")
    elif release.version < present.version:
        reasons.append(f"{new} is older than the running {running}: modules are only upgraded while TDs run")
    elif present.version < release.preserves_from:
        reasons.append(f"{new} preserves TDs from {version_text(release.preserves_from)} on, {running} runs")
    if present.loader is not None and not _loader_fits(present.loader, release.loaders):
        wanted = " or ".join(map(version_text, release.loaders))
        there = version_text(present.loader)
        reasons.append(f"{new} needs P-SEAMLDR {wanted} or later of that line, not {there}")
    if present.cpu is not None and cpus and present.cpu & ~0xF not in {cpu & ~0xF for cpu in cpus}:
        reasons.append(f"{new} is not signed for this processor (CPUID.1.EAX {present.cpu & ~0xF:#x})")
    if present.updates_left == 0:
        reasons.append("P-SEAMLDR's table of updates is full: reboot first")
    if debug:
        reasons.append(f"{new} is a debug module: its TDs are not protected")
    return reasons


def _loader_fits(loader: Version, wanted: Sequence[Version]) -> bool:
    return any(loader[:2] == one[:2] and loader >= one for one in wanted)


def best(present: Present, releases: Sequence[tuple[Release, Sequence[int], bool]]) -> Release | None:
    """The newest release that may take the place of what runs, or None. Each comes with its CPUs and debug bit."""
    fitting = [one for one, cpus, debug in releases if not reasons_against(present, one, cpus, debug=debug)]
    return max(fitting, key=lambda one: one.version, default=None)

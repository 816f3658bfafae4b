"""What is told of the TDX module that runs, for people and for the rules of its replacement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tdxstack.errors import TdxStackError
from tdxstack.platform.linux_host_files import HostReadError
from tdxstack.platform.module_rules import Present, Version, version_text
from tdxstack.preflight import facts
from tdxstack.preflight.checks.module import version_of
from tdxstack.preflight.host import STACK_1_5_MODULE, UPSTREAM_MODULE, Host


def present(host: Host) -> Present | None:
    """The running module for the rules; None where none runs or its update number is not told."""
    try:
        found = version_of(host)
    except HostReadError:
        return None
    if found is None or len(found.number) < 2:
        return None
    number = (*found.number, 0)[:3]
    return Present(
        version=(number[0], number[1], number[2]),
        loader=_version(host, "seamldr_version"),
        cpu=_cpu(host),
        updates_left=_number(host, "num_remaining_updates"),
    )


def _version(host: Host, name: str) -> Version | None:
    text = host.files.text_or_none(f"{UPSTREAM_MODULE}/{name}")
    if not text:
        return None
    number = (*facts.version(text), 0, 0)[:3]
    return number[0], number[1], number[2]


def _number(host: Host, name: str) -> int | None:
    text = host.files.text_or_none(f"{UPSTREAM_MODULE}/{name}")
    return int(text[:9]) if text and text.isascii() and text.isdigit() else None


def _cpu(host: Host) -> int | None:
    """CPUID.1.EAX with the stepping, from /proc/cpuinfo; None where it cannot be read."""
    try:
        cpu = host.cpu
    except TdxStackError:
        return None
    return (cpu.model >> 4) << 16 | cpu.family << 8 | (cpu.model & 0xF) << 4 | cpu.stepping


def describe(host: Host) -> dict[str, Any]:
    """Version, build, loader and what the kernel tells besides; ``module`` is None where none runs."""
    found = version_of(host)
    now = present(host)
    body: dict[str, Any] = {"platform": "tdx", "stack": host.world.value, "module": None}
    if found is None:
        return body
    update = len(found.number) >= 3 and now is not None
    body["module"] = version_text(now.version) if update and now else facts.dotted(found.number)
    body["build"] = found.build
    body["debug"] = found.debug
    body["loader"] = version_text(now.loader) if now and now.loader else None
    body["updates_left"] = now.updates_left if now else None
    body["keyids"] = host.log.key_ids and list(host.log.key_ids)
    status = host.files.text_or_none(f"{STACK_1_5_MODULE}/status")
    body["status"] = status or ("initialized" if host.log.initialized else "unknown")
    return body


def text(body: Mapping[str, Any]) -> str:
    lines = [f"{key}: {value}" for key, value in body.items() if value is not None and key != "facts"]
    lines.extend(f"  {key}: {value}" for key, value in (body.get("facts") or {}).items())
    return "\n".join(lines)

"""The stack's components and what of them is installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tdxstack.errors import TdxStackError
from tdxstack.preflight import facts
from tdxstack.preflight.checks.module import version_of
from tdxstack.preflight.data import table
from tdxstack.preflight.host import UPSTREAM_MODULE, Host


@dataclass(frozen=True, slots=True)
class Component:
    """One component. ``installed`` says what was found, or is None."""

    name: str
    description: str
    side: str
    installed: str | None

    def body(self) -> dict[str, Any]:
        return {"name": self.name, "description": self.description, "side": self.side, "installed": self.installed}


def _module(host: Host) -> str | None:
    found = version_of(host)
    if found is None:
        return None
    return facts.dotted(found.number) + (f" build {found.build}" if found.build else "")


def _loader(host: Host) -> str | None:
    return host.files.text_or_none(f"{UPSTREAM_MODULE}/seamldr_version")


def _kernel(host: Host) -> str | None:
    return (
        f"{host.kernel} (stack {host.world})"
        if host.kvm_tdx is not None or host.log.upstream or host.log.stack_1_5
        else None
    )


def _qemu(host: Host) -> str | None:
    qemu = host.qemu
    return f"{qemu.path} {qemu.version}" if qemu is not None and qemu.tdx_guest is not None else None


PROBES: dict[str, Callable[[Host], str | None]] = {
    "module": _module,
    "loader": _loader,
    "kernel": _kernel,
    "qemu": _qemu,
}


def listed(host: Host) -> tuple[Component, ...]:
    """All components of the table, in its order; what cannot be read counts as not found."""
    return tuple(
        Component(entry["name"], entry["description"], entry.get("side", "host"), _installed(host, entry))
        for entry in table("components")["component"]
    )


def _installed(host: Host, entry: dict[str, Any]) -> str | None:
    try:
        if "probe" in entry:
            return PROBES[entry["probe"]](host)
        package = host.package(*entry.get("packages", ()))
    except TdxStackError:
        return None
    if package is not None:
        return package
    return next((path for path in entry.get("files", ()) if host.files.exists(path)), None)


def text(components: Sequence[Component]) -> str:
    width = max(len(one.name) for one in components)
    lines = [f"{one.name:<{width}}  {one.side:<5}  {one.installed or '-'}" for one in components]
    return "\n".join([f"{'component':<{width}}  side   installed", *lines])

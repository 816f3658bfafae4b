"""Tries every interface of a TD's guest and says of each whether it works, and if not, why."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from typing import Any

from tdxstack.errors import PlatformMissing, TdxStackError
from tdxstack.platform import linux_guest
from tdxstack.platform.linux_guest import REPORT_DATA_SIZE, GuestPaths


def check(paths: GuestPaths, faults: Mapping[str, str]) -> list[dict[str, Any]]:
    """One entry for each interface: ``name``, ``ok``, ``detail``, ``hint``.

    Args:
        paths: where the interfaces are.
        faults: what is known already: parts of a software TD's emulation that are not up.
    """
    return [
        _try("platform", lambda: _platform(paths), faults),
        _try("device", lambda: _device(paths), faults),
        _try("report", lambda: _quote(paths), faults),
        _try("ccel", lambda: _log(paths), faults),
        _try("measurements", lambda: _registers(paths), faults),
    ]


def _try(name: str, action: Callable[[], str], faults: Mapping[str, str]) -> dict[str, Any]:
    try:
        return {"name": name, "ok": True, "detail": action(), "hint": None}
    except TdxStackError as error:
        return {"name": name, "ok": False, "detail": faults.get(name, error.message), "hint": error.hint}


def _platform(paths: GuestPaths) -> str:
    kind = linux_guest.platform_kind(paths)
    if kind == "none":
        raise PlatformMissing("this machine is not a TD", hint="tdxctl td create starts one")
    return kind


def _device(paths: GuestPaths) -> str:
    nonce = os.urandom(REPORT_DATA_SIZE)
    report = linux_guest.report(nonce, paths)
    if report[128:192] != nonce:
        raise PlatformMissing("the TDREPORT is not over the REPORTDATA that was asked for")
    return f"TDREPORT of {len(report)} bytes by {paths.device}"


def _quote(paths: GuestPaths) -> str:
    from tdxstack.platform.linux_guest_quote import quote

    made = quote(os.urandom(REPORT_DATA_SIZE), paths=paths)
    return f"quote of {len(made.quote)} bytes by {made.via}"


def _log(paths: GuestPaths) -> str:
    from tdxstack.wire.tcg import EventLog

    log = linux_guest.event_log(paths)
    return f"{len(EventLog.from_bytes(log.data).events)} events in {len(log.data)} bytes"


def _registers(paths: GuestPaths) -> str:
    found = linux_guest.registers(paths)
    short = hashlib.sha384(b"".join(found.rtmrs)).hexdigest()[:12]
    return f"RTMR0..3 by {found.source} (together {short})"

"""Signs of trouble in the logs of a captured tree: such a tree is mostly sent because something went wrong."""

from __future__ import annotations

from tdxstack.preflight import diagnosis, log_sources
from tdxstack.preflight.host import Host
from tdxstack.preflight.model import Check, Finding, failed, passed, skipped
from tdxstack.preflight.signatures import Severity

SHOWN = 3


def _signs(host: Host) -> Finding:
    if host.files.live:
        return skipped(
            "a sign in this machine's logs may be of a fault that is mended: tdxctl host diagnose reads them"
        )
    scans = list(log_sources.scan_host(host.source))
    found = [one for one in diagnosis.problems(scans) if one.severity is Severity.ERROR]
    if not found:
        return passed(f"no known sign of trouble in {', '.join(scan.source for scan in scans)}")
    named = "; ".join(f"{one.title}{f' ({one.detail})' if one.detail else ''} [{one.id}]" for one in found[:SHOWN])
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return failed(f"{named}{more}", f"{found[0].fix}\nall of them: tdxctl host diagnose --root {host.files.root}")


CHECKS = (
    Check(
        "logs.signs",
        "Logs without known signs of trouble",
        _signs,
        "no error of the table of signatures in the logs of a captured tree",
        "what went wrong often shows in a log alone: a refused quote, a denied file, a lost certificate",
        "tdxctl host diagnose --root DIR",
    ),
)

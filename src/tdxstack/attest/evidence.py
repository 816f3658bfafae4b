"""What a guest hands over to prove itself, and where it is kept."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tdxstack.errors import EvidenceRejected
from tdxstack.system.files import write_atomic

#: How a method of the guest's agent is called: (method, params) -> result.
GuestCall = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Evidence:
    """A TDREPORT (1024 bytes), a quote, and the CC event log with its ACPI table, of one TD at one time.

    ``report_data`` is what the verifier asked for: 64 bytes that nobody could know before. ``ima`` is the binary IMA
    list of a TD whose kernel extends RTMR2 by its entries, read after the quote was made; None where it does not.
    """

    report_data: bytes
    tdreport: bytes
    quote: bytes
    ccel_table: bytes
    ccel: bytes
    ima: bytes | None = None

    @classmethod
    def from_guest(cls, call: GuestCall, report_data: bytes, *, ima: bool = False) -> Evidence:
        """Have the guest make its evidence over ``report_data`` (64 bytes), with its IMA list if ``ima``.

        Raises:
            EvidenceRejected: the guest answered something that is no evidence.
        """
        parameters = {"report_data": report_data.hex()}
        report = _field(call("report", parameters), "report", "tdreport")
        quote = _field(call("quote", parameters), "quote", "quote")
        log = call("eventlog", {})
        table, data = (_field(log, name, "ccel") for name in ("table", "data"))
        return cls(report_data, report, quote, table, data, _field(call("ima", {}), "binary", "ima") if ima else None)

    def save(self, directory: Path) -> dict[str, Path]:
        """Write each part to a file of its own; the paths by what they are."""
        parts = {
            "quote": ("quote.bin", self.quote),
            "ccel": ("ccel.bin", self.ccel),
            "ccel_table": ("ccel-table.bin", self.ccel_table),
            "report": ("tdreport.bin", self.tdreport),
        }
        if self.ima is not None:
            parts["ima"] = ("ima.bin", self.ima)
        saved = {}
        for kind, (name, data) in parts.items():
            write_atomic(directory / name, data)
            saved[kind] = directory / name
        return saved


def _field(answer: Mapping[str, Any], name: str, step: str) -> bytes:
    try:
        return base64.b64decode(answer[name], validate=True)
    except (KeyError, TypeError, binascii.Error) as fault:
        raise EvidenceRejected(step, f"the guest's answer holds no {name} ({fault})") from None

"""SEAMCALL completion status codes and leaf numbers in words (Intel TDX Module ABI Reference, "Status Codes")."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tdxstack.preflight.data import table

#: Linux gives these for SEAMCALL instructions that the CPU itself refused (arch/x86/include/asm/tdx.h).
SOFTWARE_ERROR = 0x8000_FF00_0000_0000
NAME_MASK = 0xFFFF_FFFF_0000_0000
#: Leaves of P-SEAMLDR have this bit.
SEAMLDR_LEAF = 1 << 63


@dataclass(frozen=True, slots=True)
class Status:
    """A decoded status. ``text`` says it in words; ``fix`` is None where nothing special helps."""

    code: int
    name: str
    text: str
    fix: str | None
    recoverable: bool


def leaf_name(leaf: int) -> str:
    """``TDH.SYS.INIT`` of 0x21; bits 23:16 are the leaf's version."""
    if leaf & SEAMLDR_LEAF:
        return str(table("seamcall")["seamldr_leaf"].get(str(leaf & 0xFFFF), f"SEAMLDR leaf {leaf & 0xFFFF}"))
    return str(table("seamcall")["leaf"].get(str(leaf & 0xFFFF), f"leaf {leaf & 0xFFFF}"))


def decode(code: int, leaf: int | None = None) -> Status:
    """A status in words. An unknown one keeps its class and number: it is data, not an error."""
    call = f"{leaf_name(leaf)}: " if leaf is not None else ""
    if code & 0xFFFF_FF00_0000_0000 == SOFTWARE_ERROR:
        return _refused(code, call)
    entry = table("seamcall")["status"].get(f"{code >> 32:08x}")
    recoverable = not code & 1 << 62 and not code & 1 << 61
    if entry is None:
        return Status(
            code, f"status {code >> 32:#010x}", f"{call}status {code:#018x}, {_class(code)}", None, recoverable
        )
    operand = f", operand {_operand(code)}" if "OPERAND" in entry["name"] and code & 0xFFFFFFFF else ""
    meaning = entry.get("text", _class(code))
    return Status(code, entry["name"], f"{call}{entry['name']}{operand}: {meaning}", entry.get("fix"), recoverable)


_LEAF = re.compile(r"(?:seamcall|leaf)[ (\[=:]*(?:(0x[0-9a-f]{1,16})|([0-9]{1,5}))\b", re.IGNORECASE)


def leaf_of(line: str) -> int | None:
    """The leaf that a line names, hexadecimal with 0x and decimal without; None where it names none."""
    found = _LEAF.search(line)
    if found is None:
        return None
    return int(found[1], 16) if found[1] else int(found[2])


def _refused(code: int, call: str) -> Status:
    reasons = {
        0x8000_FF00_FFFF_0000: ("VMFailInvalid", "no module answers: it is not loaded, or was shut down"),
        SOFTWARE_ERROR | 13: (
            "#GP",
            "SEAMCALL raised a general protection fault: SEAM is not enabled by the firmware",
        ),
        SOFTWARE_ERROR | 6: ("#UD", "SEAMCALL is not a valid instruction now: VMX is off on this CPU"),
    }
    name, text = reasons.get(code, ("software error", "the CPU refused the instruction"))
    return Status(code, name, f"{call}{name}: {text}", None, False)


def _class(code: int) -> str:
    """Bits 63:60 of a status (TDX Module ABI, "Interface function completion status")."""
    words = []
    if code & 1 << 63:
        words.append("an error")
    if code & 1 << 62:
        words.append("not recoverable by retrying")
    if code & 1 << 61:
        words.append("the TD is lost")
    return ", ".join(words) or "information, no error"


def _operand(code: int) -> str:
    names = {0: "RAX", 1: "RCX", 2: "RDX", 3: "RBX", 8: "R8", 9: "R9", 10: "R10", 11: "R11", 12: "R12", 13: "R13"}
    implicit = {
        128: "TDR",
        129: "TDCS",
        130: "TDVPR",
        131: "TDVPX",
        144: "SYS",
        145: "TDMR",
        146: "KOT",
        147: "KET",
        184: "RTMR",
    }
    number = code & 0xFFFFFFFF
    return names.get(number) or implicit.get(number) or str(number)

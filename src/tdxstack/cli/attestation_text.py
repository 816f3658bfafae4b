"""The attestation report as a person reads it."""

from __future__ import annotations

from typing import Any

from tdxstack.cli import output

_MARKS = {"pass": ("ok", "green"), "fail": ("FAIL", "red"), "skip": ("skip", "yellow"), "warn": ("warn", "yellow")}
_SHOWN = 16
#: Steps of verification by their names in the document.
_TITLES = {
    "quote_format": "quote can be read",
    "pck_certificate": "PCK certificate chain, CRLs",
    "tcb_info": "TCB info",
    "enclave_identity": "QE identity",
    "pck_of_quote": "PCK certificate is the quote's",
    "tcb_info_match": "TCB info is this platform's",
    "tdx_module": "TDX module",
    "qe_report_signature": "QE report, signed by the PCK",
    "attestation_key": "attestation key, in QE report",
    "qe_identity_match": "QE is the one identified",
    "quote_signature": "quote, by the attestation key",
    "tcb_level": "TCB level",
}


def attestation(report: dict[str, Any]) -> str:
    """Text of a ``tdxstack/quickstart/v1`` or ``tdxstack/attestation/v1`` document."""
    lines = [*_head(report), "", *_registers(report), "", *_steps(report), "", *_foot(report)]
    return "\n".join(lines) + "\n"


def _head(report: dict[str, Any]) -> list[str]:
    td, firmware = report["td"], report["firmware"]
    software = report["platform"] == "software"
    where = "software TDX platform: it stands in for the silicon and protects nothing" if software else "TDX hardware"
    rows = [
        ("TD", f"{td['name']}   {td['vcpus']} vCPU, {td['memory'] >> 20} MiB"),
        ("platform", where),
        ("firmware", f"{firmware['path']}\n{'':11}sha256 {firmware['sha256']}"),
        ("kernel", str(td["kernel"])),
        ("initrd", str(td["initrd"])),
        ("command", str(td["cmdline"])),
        ("nonce", report["nonce"][:32] + "..."),
    ]
    return [f"{name:<10} {value}" for name, value in rows]


def _registers(report: dict[str, Any]) -> list[str]:
    rows = [("MRTD", report["mrtd"], None), *((f"RTMR{n}", r, n) for n, r in enumerate(report["rtmr"]))]
    width = _SHOWN + 5
    lines = [_bold(f"{'register':<9} {'expected':<{width}} {'replayed':<{width}} quoted")]
    for name, register, number in rows:
        replayed = register.get("replayed") if number is not None else None
        values = (register["expected"], replayed, register["quoted"])
        known = [value for value in values[:2] if value]
        mark = "pass" if known and all(value == values[2] for value in known) else "fail"
        cells = " ".join(f"{_short(value):<{width}}" for value in values)
        lines.append(f"{name:<9} {cells}{_mark(mark)}")
        if register["expected"] is None:
            lines.append(f"{'':9} not predicted: {register.get('reason')}")
    return lines


def _steps(report: dict[str, Any]) -> list[str]:
    lines = [_bold("quote")]
    lines += [_step(str(_TITLES.get(step["name"]) or step["name"]), step) for step in report["verification"]["steps"]]
    lines += ["", _bold("measurements")]
    return lines + [_step(step["name"], step) for step in report["checks"]]


def _step(title: str, step: dict[str, Any]) -> str:
    return f"  {_mark(step['outcome'])} {title:<30} {step['detail']}".rstrip()


def _foot(report: dict[str, Any]) -> list[str]:
    verification = report["verification"]
    accepted = report["verdict"] == "accepted"
    lines = [f"{'TCB':<10} {verification['status']}"]
    lines += [f"{name.replace('_', ' '):<10} {path}" for name, path in report["files"].items()]
    verdict = _coloured(f"{'verdict':<10} {report['verdict']}", "green" if accepted else "red")
    return [*lines, "", verdict, *(f"{'':<10} {reason}" for reason in report["reasons"])]


def _short(value: str | None) -> str:
    return "-" if value is None else f"{value[:_SHOWN]}..."


def _mark(outcome: str) -> str:
    text, colour = _MARKS.get(outcome, (outcome, "yellow"))
    return _coloured(f"{text:<4}", colour)


def _bold(text: str) -> str:
    return _coloured(text, "bold")


def _coloured(text: str, colour: str) -> str:
    return output.coloured(text, colour)

"""``tdxctl guest``: evidence from inside a TD, asked in the guest itself or, with ``--td``, from the host."""

from __future__ import annotations

import argparse
import importlib
import os
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tdxstack.cli import output, td_names
from tdxstack.cli.commands import guest_audit
from tdxstack.errors import ExitCode, SystemFault, UsageError

REPORT_DATA_SIZE = 64
DIGEST_SIZE = 48
VIAS = ("auto", "configfs", "vsock", "ioctl", "tdvmcall")
#: How long the host waits for the guest: a quote takes seconds, an emulated CPU is slow.
_SECONDS = 90.0


def add_parser(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    _add_evidence(verbs, "report", "get a TDREPORT", _report)
    _add_evidence(verbs, "quote", "get a quote", _quote).add_argument(
        "--via", choices=VIAS, default="auto", help="how to obtain it; auto takes the first way that is there"
    )
    log = _add(verbs, "eventlog", "get the CC event log (CCEL)", _eventlog)
    _add_out(log, "the log area")
    log.add_argument("--table", type=Path, metavar="FILE", help="write the ACPI table CCEL to FILE")
    ima = _add(verbs, "ima", "get IMA's run-time measurement list", _ima)
    _add_out(ima, "the list")
    ima.add_argument("--binary", action="store_true", help="the binary list instead of the ASCII one")
    rtmr = _add(verbs, "rtmr", "show MRTD and RTMRs, or extend an RTMR", _rtmr)
    rtmr.add_argument("--extend", type=int, choices=range(4), metavar="INDEX", help="extend RTMR INDEX (0..3)")
    by = rtmr.add_mutually_exclusive_group()
    by.add_argument("--digest", metavar="HEX", help="the SHA-384 digest to extend by")
    by.add_argument("--event", type=Path, metavar="FILE", help="extend by the SHA-384 of FILE")
    _add(verbs, "check", "try every interface of this guest", _check)
    audit = "judge devices, drivers and ACPI tables by the allow-list of a hardened TD"
    guest_audit.add_options(_add(verbs, "audit", audit, lambda args: guest_audit.run(args, _ask)))
    _add_attest(_add(verbs, "attest", "prove this guest to a verifier service; get its token", _attest))
    text = "run the guest's service: the emulation of a software TD, and the agent"
    serve = verbs.add_parser("serve", help=text, description=text, formatter_class=output.help_formatter())
    serve.set_defaults(run=_serve)


def _add(verbs: Any, name: str, text: str, run: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=text, description=text, formatter_class=output.help_formatter()
    )
    td_names.completed(
        parser.add_argument(
            "--td", metavar="NAME", help="ask the running TD NAME; without it, this machine is the guest"
        )
    )
    output.add_json(parser)
    parser.set_defaults(run=run)
    return parser


def _add_out(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--out", metavar="FILE", help=f"write {what} to FILE (- is stdout)")


def _add_evidence(verbs: Any, name: str, text: str, run: Any) -> argparse.ArgumentParser:
    parser = _add(verbs, name, text, run)
    _add_out(parser, f"the {name}")
    data = parser.add_mutually_exclusive_group()
    data.add_argument("--report-data", metavar="HEX", help="REPORTDATA, 64 bytes")
    data.add_argument(
        "--nonce", metavar="HEX", help="REPORTDATA, 1..64 bytes, zeros after them; without either: 64 random bytes"
    )
    return parser


def _add_attest(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "The exit status is 0 if the verifier accepted the evidence, 3 if it was rejected."
    parser.add_argument("--verifier", metavar="URL", required=True, help="the verifier (tdxctl verifier serve)")
    parser.add_argument("--tls-ca", type=Path, metavar="FILE", help="CA that signed its TLS certificate")
    parser.add_argument("--policy", metavar="NAME", help="one of the verifier's policies")
    parser.add_argument("--ima", action="store_true", help="send the run-time measurement list too")
    _add_out(parser, "the token, a signed JWT,")


def _attest(args: argparse.Namespace) -> ExitCode:
    from tdxstack.platform.verifier_client import VerifierClient, gather

    client = VerifierClient(args.verifier, args.tls_ca)
    evidence = gather(
        lambda method, params: _ask(args, method, params), client.challenge(), ima=args.ima, policy=args.policy
    )
    verdict = client.attest(evidence)
    failed = verdict.document.get("failed") or ["logs"]
    text = f"accepted by {client.url}" if verdict.accepted else f"rejected by {client.url}: {', '.join(failed)}"
    body = output.document("guest-attestation", {"verifier": client.url, **verdict.document})
    _deliver(args, verdict.token.encode(), body, lambda: text)
    return ExitCode.DONE if verdict.accepted else ExitCode.REJECTED


def _report(args: argparse.Namespace) -> ExitCode:
    data = report_data(args)
    report = b64decode(_ask(args, "report", {"report_data": data.hex()})["report"])
    body = output.document("guest-report", {"report_data": data.hex(), "report": report.hex()})
    return _deliver(args, report, body, lambda: _report_text(report))


def _report_text(report: bytes) -> str:
    from tdxstack.wire.tdreport import TdReport

    parsed = TdReport.from_bytes(report)
    registers = {f"rtmr{index}": value for index, value in enumerate(parsed.td_info.rtmrs)}
    fields = {"reportdata": parsed.report_data, "mrseam": parsed.tee_tcb_info.mr_seam, "mrtd": parsed.td_info.mr_td}
    lines = [f"{name:<12}{value.hex()}" for name, value in {**fields, **registers}.items()]
    return "\n".join([*lines, f"{'attributes':<12}0x{parsed.td_info.attributes:016x}"])


def _quote(args: argparse.Namespace) -> ExitCode:
    data = report_data(args)
    via = "ioctl" if args.via == "tdvmcall" else args.via
    answer = _ask(args, "quote", {"report_data": data.hex(), "via": via})
    quote = b64decode(answer["quote"])
    body = output.document("guest-quote", {"report_data": data.hex(), "via": answer["via"], "quote": answer["quote"]})
    return _deliver(args, quote, body, lambda: f"quote of {len(quote)} bytes by {answer['via']}, over {data.hex()}")


def _eventlog(args: argparse.Namespace) -> ExitCode:
    answer = _ask(args, "eventlog", {})
    table, data = b64decode(answer["table"]), b64decode(answer["data"])
    if args.table:
        _write(args.table, table)
    return _deliver(args, data, output.document("guest-eventlog", answer), lambda: _log_text(data))


def _log_text(data: bytes) -> str:
    from tdxstack.wire.tcg import EventLog, event_type_name

    lines = []
    for number, event in enumerate(EventLog.from_bytes(data).events):
        register = "MRTD" if event.mr_index == 0 else f"RTMR{event.mr_index - 1}"
        digest = (event.digest() or b"").hex()
        lines.append(f"{number:>3}  {register:<5}  {event_type_name(event.event_type):<36}  {digest}")
    return "\n".join(lines)


def _ima(args: argparse.Namespace) -> ExitCode:
    answer = _ask(args, "ima", {})
    listed = answer["ascii"]
    data = b64decode(answer["binary"]) if args.binary else listed.encode()
    body = output.document("guest-ima", {"entries": len(listed.splitlines()), **answer})
    return _deliver(args, data, body, lambda: listed or "the list is empty\n")


def _rtmr(args: argparse.Namespace) -> ExitCode:
    if args.extend is None:
        if args.digest or args.event:
            raise UsageError("--digest and --event need --extend INDEX", hint="tdxctl guest rtmr --help")
        found = _ask(args, "rtmr.read", {})
        values = {"mrtd": found["mrtd"], **{f"rtmr{index}": value for index, value in enumerate(found["rtmr"])}}
        text = "\n".join(f"{name:<7}{value}" for name, value in values.items())
        output.emit(args, output.document("guest-rtmr", found), lambda: text)
        return ExitCode.DONE
    digest = _digest(args)
    answer = _ask(args, "rtmr.extend", {"index": args.extend, "digest": digest.hex()})
    body = output.document("guest-rtmr-extend", {"digest": digest.hex(), **answer})
    output.emit(args, body, lambda: f"rtmr{answer['index']}  {answer['value']}")
    return ExitCode.DONE


def _digest(args: argparse.Namespace) -> bytes:
    import hashlib

    if args.event:
        try:
            return hashlib.sha384(args.event.read_bytes()).digest()
        except OSError as error:
            raise UsageError(f"--event {args.event}: {error.strerror}") from error
    if not args.digest:
        raise UsageError("--extend needs --digest HEX or --event FILE")
    digest = _bytes("--digest", args.digest)
    if len(digest) != DIGEST_SIZE:
        raise UsageError(f"--digest has {len(digest)} bytes, a SHA-384 digest has {DIGEST_SIZE}")
    return digest


def _check(args: argparse.Namespace) -> ExitCode:
    checks = _ask(args, "check", {})["checks"]
    output.emit(args, output.document("guest-check", {"checks": checks}), lambda: "\n".join(map(_check_text, checks)))
    return ExitCode.DONE if all(item["ok"] for item in checks) else ExitCode.FAILED


def _check_text(item: Mapping[str, Any]) -> str:
    text = f"{'ok' if item['ok'] else 'FAILED':<8}{item['name']:<14}{item['detail']}"
    return text + (f"\n{'':<22}next: {item['hint']}" if item["hint"] else "")


def _serve(_args: argparse.Namespace) -> ExitCode:
    if os.geteuid():
        raise UsageError("the guest's service needs root", hint="systemctl start tdxstack-guest")
    from tdxstack.platform.linux_guest_service import serve

    try:
        serve(lambda text: output.say(f"tdxctl guest serve: {text}"))
    except KeyboardInterrupt:
        return ExitCode.DONE
    except OSError as error:
        raise SystemFault(
            f"agent port: {error}", hint="one process serves it: systemctl status tdxstack-guest"
        ) from error
    return ExitCode.DONE


def report_data(args: argparse.Namespace) -> bytes:
    """REPORTDATA by the options, 64 bytes."""
    if args.report_data is not None:
        data = _bytes("--report-data", args.report_data)
        if len(data) != REPORT_DATA_SIZE:
            raise UsageError(f"--report-data has {len(data)} bytes, not 64", hint="--nonce takes fewer, zeros follow")
        return data
    if args.nonce is not None:
        data = _bytes("--nonce", args.nonce)
        if not 0 < len(data) <= REPORT_DATA_SIZE:
            raise UsageError(f"--nonce has {len(data)} bytes, not 1..64")
        return data.ljust(REPORT_DATA_SIZE, b"\0")
    return os.urandom(REPORT_DATA_SIZE)


def _bytes(option: str, text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise UsageError(f"{option}: {text!r} is not a string of hex digits") from None


def _ask(args: argparse.Namespace, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of this guest, or of the guest of the TD that ``--td`` names."""
    if args.td is None:
        from tdxstack.platform.linux_guest_agent import Agent

        return Agent().call(method, params)
    # By name, since what runs in guests is without the host's rooms.
    control = importlib.import_module("tdxstack.vm.control")
    with control.ControlClient(args.td) as client:
        answer: dict[str, Any] = client.call(
            "guest", {"method": method, "params": dict(params), "timeout": _SECONDS}, timeout=_SECONDS + 5
        )
    return answer


def _deliver(args: argparse.Namespace, data: bytes, body: Mapping[str, Any], human: Any) -> ExitCode:
    if args.out == "-":
        output.raw(data)
        return ExitCode.DONE
    if args.out:
        _write(Path(args.out), data)
        output.say(f"{args.out}: {len(data)} bytes")
        if not args.json:
            return ExitCode.DONE
    output.emit(args, body, human)
    return ExitCode.DONE


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise SystemFault(
            f"cannot write {path}: {error.strerror}", hint=f"check the directory {path.parent}"
        ) from error

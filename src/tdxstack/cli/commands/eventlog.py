"""``tdxctl eventlog``: show, replay, compare and explain event logs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from tdxstack.cli import output, td_names
from tdxstack.errors import ExitCode, TdxStackError, UsageError

if TYPE_CHECKING:
    from tdxstack.measure.ima_replay import CoveredList
    from tdxstack.measure.logs import LoadedLog

MAX_LOG = 64 << 20
LOG_HELP = "CCEL data, a TPM's log, or dstack's JSON; - is stdin (default: this guest's CCEL)"


IMA_HELP = "IMA list whose entries were extended too, ASCII or binary (default with a running guest: its own)"


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    show = _verb(verbs, "show", run_show, "the events: register, type, what was measured, digest")
    show.add_argument("log", nargs="?", metavar="LOG", help=LOG_HELP)
    td_names.completed(show.add_argument("--td", metavar="NAME", help="take the log of a running TD"))
    output.add_json(show)
    show.add_argument("--yaml", action="store_true", help="print the same document as YAML")
    replay = _verb(
        verbs,
        "replay",
        run_replay,
        "the registers that the log leads to; exit 3 if they are not the quote's, report's or guest's",
    )
    replay.add_argument("log", nargs="?", metavar="LOG", help=LOG_HELP)
    td_names.completed(
        replay.add_argument(
            "--td", metavar="NAME", help="take the log of a running TD, and compare with its registers"
        )
    )
    replay.add_argument("--ima", metavar="FILE", help=IMA_HELP)
    text = "a log of what was extended after LOG's events, by applications into RTMR3 for one; may be repeated"
    replay.add_argument("--also", action="append", default=[], metavar="LOG", help=text)
    against = replay.add_mutually_exclusive_group()
    against.add_argument("--quote", metavar="F", help="compare with a quote")
    against.add_argument("--report", metavar="F", help="compare with a TDREPORT")
    output.add_json(replay)
    diff = _verb(verbs, "diff", run_diff, "the first difference of each register between two logs; exit 1 if any")
    diff.add_argument("first", metavar="A", help=LOG_HELP)
    diff.add_argument("second", metavar="B", help="the other log")
    output.add_json(diff)
    explain = _verb(verbs, "explain", run_explain, "the first event that is not as expected, and why; exit 3 if any")
    explain.add_argument("log", metavar="LOG", help=LOG_HELP)
    expected = explain.add_mutually_exclusive_group(required=True)
    expected.add_argument("--prediction", metavar="FILE", help="output of `tdxctl measure predict --json`")
    expected.add_argument("--good", metavar="LOG", help="the log of a boot that was as it should be")
    output.add_json(explain)


def _verb(verbs: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=text, description=text, formatter_class=output.help_formatter()
    )
    parser.set_defaults(run=run)
    return parser


def read_log(path: str) -> bytes:
    """The log's bytes. Raises UsageError."""
    from tdxstack.cli.evidence import read_bytes

    return read_bytes(path, "event log", limit=MAX_LOG)


def _load(args: argparse.Namespace) -> LoadedLog:
    from tdxstack.measure.logs import load

    if getattr(args, "td", None):
        if args.log is not None:
            raise UsageError("give LOG or --td NAME, not both")
        return load(_log_of_td(args.td))
    if args.log is None:
        from tdxstack.platform import linux_guest

        return load(linux_guest.event_log().data)
    return load(read_log(args.log))


def _log_of_td(name: str) -> bytes:
    import base64

    from tdxstack.vm.lifecycle import call_guest

    answer = call_guest(name, "eventlog", {})
    return base64.b64decode(answer["data"])


def run_show(args: argparse.Namespace) -> ExitCode:
    """``eventlog show``."""
    from tdxstack.cli.eventlog_text import log_members, log_table, yaml_text

    loaded = _load(args)
    body = output.document("eventlog", log_members(loaded))
    if args.yaml:
        output.raw(yaml_text(body).encode())
    else:
        output.emit(args, body, lambda: log_table(loaded, body))
    return ExitCode.FAILED if loaded.fault else ExitCode.DONE


def run_replay(args: argparse.Namespace) -> ExitCode:
    """``eventlog replay``."""
    from tdxstack.cli.eventlog_text import replay_text
    from tdxstack.measure.check import false_descriptions
    from tdxstack.measure.logs import joined, load
    from tdxstack.measure.replay import replay

    loaded = joined(_load(args), *(load(read_log(path)) for path in args.also))
    if loaded.fault is not None:
        raise loaded.fault
    quoted = _quoted(args)
    ima = _ima(args, loaded, quoted)
    result = replay(loaded.log, ima.extends if ima else ())
    untrue = [*false_descriptions(loaded.original.events), *loaded.problems, *(ima.problems if ima else ())]
    matches = None if quoted is None else [mine == theirs for mine, theirs in zip(result.rtmr, quoted, strict=True)]
    body = output.document(
        "eventlog-replay",
        {
            "format": loaded.format.value,
            "events": len(loaded.original.events),
            "rtmr": [value.hex() for value in result.rtmr],
            "quoted": None if quoted is None else [value.hex() for value in quoted],
            "matches": matches,
            "ima": None if ima is None else {"entries": ima.total, "covered": ima.covered},
            "problems": [*result.problems, *untrue],
        },
    )
    output.emit(args, body, lambda: replay_text(body))
    if matches and not all(matches):
        return ExitCode.REJECTED
    if result.problems:
        return ExitCode.FAILED
    return ExitCode.REJECTED if untrue else ExitCode.DONE


def _ima(args: argparse.Namespace, loaded: LoadedLog, quoted: tuple[bytes, ...] | None) -> CoveredList | None:
    """The IMA list of ``--ima``; of a running guest its own, where RTMR2 holds more than the event log."""
    from tdxstack.measure.ima_replay import RTMR, cover
    from tdxstack.measure.replay import replay
    from tdxstack.wire.ima import read_list

    value = None if quoted is None else quoted[RTMR]
    if args.ima:
        return cover(loaded.log, read_list(read_log(args.ima)), value)
    if value is None or args.log is not None or replay(loaded.log).rtmr[RTMR] == value:
        return None
    data = _ima_of_guest(args.td)
    found = cover(loaded.log, read_list(data), value) if data else None
    return found if found and found.covered else None


def _ima_of_guest(name: str | None) -> bytes:
    """The list of the TD called so, or of this guest; nothing where there is none."""
    import base64

    try:
        if name is not None:
            from tdxstack.vm.lifecycle import call_guest

            return base64.b64decode(call_guest(name, "ima", {})["binary"])
        from tdxstack.platform import linux_guest

        return linux_guest.ima_list()[1]
    except TdxStackError:
        return b""


def _quoted(args: argparse.Namespace) -> tuple[bytes, ...] | None:
    """The registers to compare with, or None."""
    if args.quote:
        from tdxstack.cli.evidence import read_quote
        from tdxstack.wire.quote import Quote, TdReportBody

        body = Quote.from_bytes(read_quote(args.quote)).body
        if not isinstance(body, TdReportBody):
            raise UsageError(f"{args.quote}: an SGX quote has no RTMRs", hint="give a TD's quote")
        return body.rtmrs
    if args.report:
        from tdxstack.wire.tdreport import TdReport

        return TdReport.from_bytes(read_log(args.report)).td_info.rtmrs
    if args.td:
        from tdxstack.vm.lifecycle import registers

        values = registers(args.td)
        if all(f"rtmr{number}" in values for number in range(4)):
            return tuple(bytes.fromhex(values[f"rtmr{number}"]) for number in range(4))
    elif args.log is None:
        from tdxstack.platform import linux_guest

        return linux_guest.registers().rtmrs
    return None


def run_diff(args: argparse.Namespace) -> ExitCode:
    """``eventlog diff``."""
    from tdxstack.cli.eventlog_text import diff_text, event_members
    from tdxstack.measure.describe import register_name
    from tdxstack.measure.difference import diff_logs
    from tdxstack.measure.logs import load

    first, second = (load(read_log(path)) for path in (args.first, args.second))
    for loaded in (first, second):
        if loaded.fault is not None:
            raise loaded.fault
    found = diff_logs(first.log, second.log)
    body = output.document(
        "eventlog-diff",
        {
            "same": not found,
            "differences": [
                {
                    "register": register_name(one.mr_index),
                    "position": one.position,
                    "first": None if one.first is None else event_members(one.first),
                    "second": None if one.second is None else event_members(one.second),
                }
                for one in found
            ],
        },
    )
    output.emit(args, body, lambda: diff_text(body))
    return ExitCode.FAILED if found else ExitCode.DONE


def run_explain(args: argparse.Namespace) -> ExitCode:
    """``eventlog explain``."""
    from tdxstack.cli.eventlog_text import event_members
    from tdxstack.measure.difference import diff
    from tdxstack.measure.export import prediction_from_members, prediction_of_log
    from tdxstack.measure.logs import load

    loaded = load(read_log(args.log))
    if loaded.fault is not None:
        raise loaded.fault
    if args.prediction:
        prediction = prediction_from_members(_json(args.prediction))
    else:
        prediction = prediction_of_log(load(read_log(args.good)).log)
    found = diff(prediction, loaded.log)
    members: dict[str, Any] = {"as_expected": found is None, "difference": None}
    if found is not None:
        members["difference"] = {
            "rtmr": found.rtmr,
            "position": found.position,
            "expected": found.expected.name if found.expected else None,
            "logged": event_members(found.logged) if found.logged else None,
            "cause": found.cause,
            "advice": found.advice,
        }
    body = output.document("eventlog-explain", members)
    text = "every event is as expected" if found is None else f"{found.text}\n  next: {found.advice}"
    output.emit(args, body, lambda: text)
    return ExitCode.DONE if found is None else ExitCode.REJECTED


def _json(path: str) -> Any:
    import json

    try:
        return json.loads(read_log(path))
    except ValueError:
        raise UsageError(f"{path}: not JSON", hint="make it by `tdxctl measure predict --json`") from None

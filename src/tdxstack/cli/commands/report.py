"""``tdxctl report``: show TDREPORTs."""

from __future__ import annotations

import argparse
from typing import Any

from tdxstack.cli import evidence, output
from tdxstack.cli.commands.quote import output_text
from tdxstack.errors import ExitCode
from tdxstack.wire.body_members import attribute_names
from tdxstack.wire.tdreport import TdReport


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    show = output.add_verb(verbs, "show", "what a TDREPORT says, and whether its hashes hold")
    show.add_argument("report", metavar="REPORT", help="the TDREPORT: a file of 1024 bytes, or -")
    output.add_json(show)
    show.set_defaults(run=run_show)


def run_show(args: argparse.Namespace) -> ExitCode:
    """``report show``."""
    report = TdReport.from_bytes(evidence.read_bytes(args.report, "TDREPORT"))
    body = output.document("tdreport", show_members(report))
    output.emit(args, body, lambda: output_text(body))
    return ExitCode.DONE


def show_members(report: TdReport) -> dict[str, Any]:
    """What the report says, as plain values."""
    module, td = report.tee_tcb_info, report.td_info
    return {
        "version": report.report_type.version,
        "report_data": report.report_data.hex(),
        "cpu_svn": report.cpu_svn.hex(),
        "mac": report.mac.hex(),
        "hashes_hold": report.hashes_hold,
        "tee_tcb_info": {
            "valid": f"{module.valid:#x}",
            "tee_tcb_svn": module.tee_tcb_svn.hex(),
            "tee_tcb_svn2": module.tee_tcb_svn2.hex(),
            "mr_seam": module.mr_seam.hex(),
            "mr_signer_seam": module.mr_signer_seam.hex(),
            "attributes": f"{module.attributes:016x}",
        },
        "td_info": {
            "attributes": f"{td.attributes:016x}",
            "attribute_names": attribute_names(td.attributes),
            "xfam": f"{td.xfam:016x}",
            "mr_td": td.mr_td.hex(),
            "mr_config_id": td.mr_config_id.hex(),
            "mr_owner": td.mr_owner.hex(),
            "mr_owner_config": td.mr_owner_config.hex(),
            "rtmrs": [rtmr.hex() for rtmr in td.rtmrs],
            "servtd_hash": td.servtd_hash.hex(),
        },
    }

"""``tdxctl collateral``: show collateral, compare two of them; fetching and keeping it is ``collateral_fetch``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from tdxstack.cli import evidence, output
from tdxstack.cli.commands import collateral_fetch
from tdxstack.errors import CollateralError, ExitCode

if TYPE_CHECKING:
    from tdxstack.dcap import Verifier
    from tdxstack.dcap.certificate import RevocationList
    from tdxstack.dcap.enclave_identity import EnclaveIdentity
    from tdxstack.dcap.tcb_info import TcbInfo


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    show = output.add_verb(verbs, "show", "what collateral says, whether its signatures hold and it is valid")
    show.add_argument("collateral", metavar="FILE", help="collateral as one JSON document, or -")
    evidence.add_roots(show)
    evidence.add_time(show)
    output.add_json(show)
    show.set_defaults(run=run_show)
    compare = output.add_verb(verbs, "compare", "which platforms fall out when NEW takes the place of OLD")
    compare.add_argument("old", metavar="OLD", help="collateral as one JSON document")
    compare.add_argument("new", metavar="NEW", help="collateral of the same FMSPC, of another evaluation or date")
    compare.add_argument(
        "--quote",
        metavar="FILE",
        action="append",
        default=[],
        help="a platform's quote, to judge by both; repeatable",
    )
    output.add_json(compare)
    compare.set_defaults(run=run_compare)
    collateral_fetch.add_verbs(verbs)


def run_show(args: argparse.Namespace) -> ExitCode:
    """``collateral show``: exit status 3 if a signature does not hold, 5 if the collateral is missing or expired."""
    from tdxstack.dcap import Verifier
    from tdxstack.dcap.status import EXPIRED, QvlStatus

    collateral, fault = evidence.read_collateral(args.collateral)
    if fault:
        raise fault
    verifier = Verifier(collateral=collateral, roots=evidence.read_roots(args.trust_root))
    now = evidence.moment(args)
    body = output.document("collateral", _show_members(verifier, now))
    output.emit(args, body, lambda: _show_text(body))
    documents = verifier.documents
    statuses = {documents.tcb_info_outcome.at(now)[0], documents.identity_outcome.at(now)[0]}
    if statuses - EXPIRED - {QvlStatus.OK}:
        return ExitCode.REJECTED
    return ExitCode.COLLATERAL if statuses & EXPIRED else ExitCode.DONE


def run_compare(args: argparse.Namespace) -> ExitCode:
    """``collateral compare``."""
    from tdxstack.dcap.compare import compare, status_by

    old, new = _parsed(args.old), _parsed(args.new)
    kinds = [f"{info.id} with FMSPC {info.fmspc.hex()}" for info, _ in (old, new)]
    if kinds[0] != kinds[1]:
        hint = "give collateral of one FMSPC and one TEE"
        raise CollateralError("tcb_info", f"OLD is for {kinds[0]}, NEW for {kinds[1]}", hint=hint)
    changes = [change for change in compare(old, new) if change.old is not change.new]
    quotes = []
    for path in args.quote:
        verification = _judged(path, args.old)
        quotes.append({"quote": path, "old": status_by(verification, *old), "new": status_by(verification, *new)})
    body = output.document(
        "collateral-comparison",
        {
            "fmspc": old[0].fmspc.hex(),
            "old": _numbers(*old),
            "new": _numbers(*new),
            "changes": [
                {"subject": change.subject, "old": change.old, "new": change.new, "detail": change.detail or None}
                for change in changes
            ],
            "falls_out": [change.subject for change in changes if change.falls_out],
            "quotes": quotes,
        },
    )
    output.emit(args, body, lambda: _compare_text(body))
    return ExitCode.DONE


def _numbers(info: TcbInfo, identity: EnclaveIdentity) -> dict[str, int]:
    return {"tcb_evaluation_number": info.evaluation_number, "qe_evaluation_number": identity.evaluation_number}


def _judged(quote: str, collateral: str) -> Any:
    from tdxstack.dcap import Verifier

    read, _ = evidence.read_collateral(collateral)
    return Verifier(collateral=read).verify(evidence.read_quote(quote), now=0)


def _parsed(path: str) -> tuple[TcbInfo, EnclaveIdentity]:
    """TCB info and QE identity of a file. Raises CollateralError."""
    from tdxstack.dcap.enclave_identity import EnclaveIdentity
    from tdxstack.dcap.signed_json import DocumentFault
    from tdxstack.dcap.tcb_info import TcbInfo

    collateral, fault = evidence.read_collateral(path)
    if fault:
        raise CollateralError(fault.item, f"{path}: {fault.message}", hint=fault.hint)
    try:
        return TcbInfo.from_json(collateral.tcb_info), EnclaveIdentity.from_json(collateral.qe_identity)
    except DocumentFault as wrong:
        raise CollateralError("tcb_info", f"{path}: {wrong}") from None


def _show_members(verifier: Verifier, now: int) -> dict[str, Any]:
    from tdxstack.dcap.appraisal import iso

    documents = verifier.documents
    info, identity = documents.tcb_info, documents.identity
    members: dict[str, Any] = {"at": iso(now)}
    for name, outcome in (("tcb_info", documents.tcb_info_outcome), ("enclave_identity", documents.identity_outcome)):
        status, detail = outcome.at(now)
        members[name] = {"status": str(status), "detail": detail or None}
    if info is not None:
        members["tcb_info"] |= {
            "id": info.id,
            "version": info.version,
            "fmspc": info.fmspc.hex(),
            "pce_id": info.pce_id.hex(),
            "tcb_evaluation_number": info.evaluation_number,
            "issue_date": iso(info.issue_date),
            "next_update": iso(info.next_update),
            "levels": [_level(level, iso(level.tcb_date)) for level in info.levels],
            "module_identities": {
                module.id: [_isv(level, iso(level.tcb_date)) for level in module.levels]
                for module in info.module_identities or ()
            },
        }
    if identity is not None:
        members["enclave_identity"] |= {
            "id": identity.id,
            "tcb_evaluation_number": identity.evaluation_number,
            "issue_date": iso(identity.issue_date),
            "next_update": iso(identity.next_update),
            "levels": [_isv(level, iso(level.tcb_date)) for level in identity.levels],
        }
    for name, crl in (("root_ca_crl", documents.root_crl), ("pck_crl", documents.pck_crl)):
        members[name] = crl and _crl_members(crl, now)
    return members


def _crl_members(crl: RevocationList, now: int) -> dict[str, Any]:
    from tdxstack.dcap.appraisal import iso

    return {
        "issuer": crl.issuer.common_name,
        "this_update": iso(crl.this_update),
        "next_update": iso(crl.next_update),
        "valid": crl.current(now),
        "number": crl.number,
        "revoked": crl.revoked_count,
    }


def _level(level: Any, date: str) -> dict[str, Any]:
    return {
        "status": level.status,
        "tcb_date": date,
        "sgx": list(level.sgx),
        "pce_svn": level.pce_svn,
        "tdx": list(level.tdx) if level.tdx is not None else None,
        "advisories": list(level.advisories),
    }


def _isv(level: Any, date: str) -> dict[str, Any]:
    return {
        "isv_svn": level.isv_svn,
        "status": level.status,
        "tcb_date": date,
        "advisories": list(level.advisories),
    }


def _show_text(body: dict[str, Any]) -> str:
    lines = []
    for name in ("tcb_info", "enclave_identity"):
        item = body[name]
        lines.append(f"{name}: {item['status']}" + (f" ({item['detail']})" if item["detail"] else ""))
        if "id" in item:
            fmspc = f", FMSPC {item['fmspc']}" if "fmspc" in item else ""
            lines.append(f"  {item['id']}{fmspc}, evaluation {item['tcb_evaluation_number']}")
            lines.append(f"  {item['issue_date']} to {item['next_update']}")
            for level in item["levels"]:
                svn = f"ISVSVN {level['isv_svn']}" if "isv_svn" in level else f"PCESVN {level['pce_svn']}"
                lines.append(
                    f"  {level['tcb_date'][:10]} {level['status']:<34} {svn} {' '.join(level['advisories'])}".rstrip()
                )
    for name in ("root_ca_crl", "pck_crl"):
        crl = body[name]
        if crl:
            valid = "valid" if crl["valid"] else "NOT valid"
            lines.append(f"{name}: {crl['revoked']} revoked, {crl['this_update']} to {crl['next_update']}, {valid}")
    return "\n".join(lines)


def _compare_text(body: dict[str, Any]) -> str:
    old, new = body["old"]["tcb_evaluation_number"], body["new"]["tcb_evaluation_number"]
    lines = [f"FMSPC {body['fmspc']}: evaluation {old} -> {new}"]
    for change in body["changes"]:
        detail = f" ({change['detail']})" if change["detail"] else ""
        lines.append(f"{change['subject']}: {change['old'] or 'no level'} -> {change['new'] or 'no level'}{detail}")
    for quote in body["quotes"]:
        lines.append(f"{quote['quote']}: {quote['old'] or 'no level'} -> {quote['new'] or 'no level'}")
    if not body["changes"]:
        lines.append("no level changes its status")
    return "\n".join(lines)

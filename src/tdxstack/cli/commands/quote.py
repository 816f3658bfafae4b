"""``tdxctl quote``: show, verify and explain quotes."""

from __future__ import annotations

import argparse
import binascii
import re
from typing import TYPE_CHECKING, Any

from tdxstack.cli import evidence, output
from tdxstack.errors import CollateralError, ExitCode, UsageError
from tdxstack.wire.body_members import body_members
from tdxstack.wire.quote import (
    CertificationData,
    CertificationType,
    QeCertification,
    Quote,
    TdReportBody,
)
from tdxstack.wire.sgx_extension import find_in_certificate

if TYPE_CHECKING:
    from tdxstack.dcap import Verification
    from tdxstack.dcap.appraisal import Appraisal
    from tdxstack.dcap.event_rules import Rule

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    show = output.add_verb(verbs, "show", "what a quote says, nothing verified")
    show.add_argument("quote", metavar="QUOTE", help="the quote: a file (binary, hexadecimal or base64), or -")
    output.add_json(show)
    show.set_defaults(run=run_show)
    verify = output.add_verb(verbs, "verify", "verify a quote and appraise it by a policy")
    evidence.add_evidence(verify)
    verify.add_argument("--policy", metavar="FILE", help="appraisal policy (TOML or JSON); default: the strict one")
    verify.add_argument(
        "--report-data", metavar="HEX", type=evidence.report_data, help="what the quote has to carry as report data"
    )
    text = "the boot's event log (data of the ACPI table CCEL, TPM log), for the policy's rules on events"
    verify.add_argument("--event-log", metavar="FILE", help=text)
    verify.add_argument("--ima", metavar="FILE", help="the IMA list that the guest's kernel extended RTMR2 by")
    verify.add_argument(
        "--rego", metavar="FILE", help="a Rego policy in Trustee's shape, judged besides (needs regopy)"
    )
    verify.add_argument("--reference-values", metavar="FILE", help="the Rego policy's reference values (JSON object)")
    verify.add_argument("--ear", metavar="FILE", help="write the result as an EAR token (JWT, ES384) to FILE")
    verify.add_argument("--ear-key", metavar="FILE", help="the token's signing key: P-384, PEM")
    verify.add_argument("--nonce", metavar="TEXT", help="the relying party's nonce, for the token")
    output.add_json(verify)
    verify.set_defaults(run=run_verify)
    explain = output.add_verb(verbs, "explain", "why a TCB is what it is, and what mends it")
    evidence.add_evidence(explain)
    output.add_json(explain)
    explain.set_defaults(run=run_explain)


def run_show(args: argparse.Namespace) -> ExitCode:
    """``quote show``."""
    raw = evidence.read_quote(args.quote)
    body = output.document("quote", show_members(Quote.from_bytes(raw)))
    output.emit(args, body, lambda: output_text(body))
    return ExitCode.DONE


def run_verify(args: argparse.Namespace) -> ExitCode:
    """``quote verify``."""
    from tdxstack.dcap.appraisal import appraise
    from tdxstack.dcap.document import verification_members
    from tdxstack.dcap.status import QvlStatus
    from tdxstack.dcap.verification import Step

    if not args.ear and (args.ear_key or args.nonce is not None):
        hint = "--report-data is what the quote itself has to carry"
        raise UsageError("--ear-key and --nonce are for the token: they go with --ear", hint=hint)
    policy = evidence.read_policy(args.policy)
    verification, fault = _verify(args)
    boot = evidence.read_boot(args.event_log, args.ima, verification.quote)
    more = _rego_rules(args, verification)
    appraisal = appraise(verification, policy, report_data=args.report_data, boot=boot, more=more)
    first = Step("collateral", "fail", fault.message) if fault else Step("collateral", "pass", "")
    body = output.document("quote-verification", verification_members(appraisal, first_steps=(first,)))
    if fault:
        body |= {"accepted": False, "authentic": False}
        if _absent(fault) and verification.judgement.fault_offset is None:
            body["status"] = QvlStatus.MISSING_PARAMETERS.value
    if args.ear:
        _write_token(args, appraisal)
    code = exit_code(appraisal, fault)
    body["hint"] = (
        None
        if code is ExitCode.DONE
        else _hint(args, appraisal, lacking=fault is not None or code is ExitCode.COLLATERAL)
    )
    output.emit(args, body, lambda: _verdict_text(body))
    return code


def _hint(args: argparse.Namespace, appraisal: Appraisal, *, lacking: bool) -> str:
    """The next command to run for evidence that is not accepted; ``lacking``: for want of collateral."""
    verification = appraisal.verification
    if verification.quote is None:
        return "have the quote made anew: tdxctl guest quote"
    if lacking:
        return f"tdxctl collateral fetch --quote {args.quote} -o FILE"
    if str(verification.qvl.pck_certificate).endswith("CHAIN_UNTRUSTED"):
        return "name another root by --trust-root, if you trust it"
    if not verification.authentic or any(rule.name.startswith("tcb.") for rule in appraisal.failed):
        words = ["tdxctl quote explain", args.quote, *(["--collateral", args.collateral] if args.collateral else [])]
        return " ".join([*words, *(f"--trust-root {root}" for root in args.trust_root or ())])
    return f"tdxctl policy explain{' ' + args.policy if args.policy else ''}"


def _rego_rules(args: argparse.Namespace, verification: Verification) -> tuple[Rule, ...]:
    from tdxstack.dcap.rego import RegoPolicy, trustee_input
    from tdxstack.measure.boot import event_members
    from tdxstack.measure.logs import load

    if not args.rego:
        if args.reference_values:
            raise UsageError("--reference-values needs --rego")
        return ()
    reference = evidence.read_text(args.reference_values, "reference values") if args.reference_values else "{}"
    policy = RegoPolicy.from_text(evidence.read_text(args.rego, "Rego policy"), reference)
    events = event_members(load(evidence.read_bytes(args.event_log, "event log")).log) if args.event_log else None
    return policy.rules(trustee_input(verification, events))


def _write_token(args: argparse.Namespace, appraisal: Appraisal) -> None:
    from pathlib import Path

    from tdxstack.dcap import ear
    from tdxstack.system.files import write_atomic

    if not args.ear_key:
        raise UsageError("--ear needs --ear-key", hint="openssl ecparam -name secp384r1 -genkey -noout -out key.pem")
    key = ear.load_key(evidence.read_bytes(args.ear_key, "token key"))
    if args.nonce is not None and (size := len(args.nonce.encode())) not in ear.NONCE_SIZES:
        output.say(f"the nonce has {size} bytes; some will not take it, since RFC 9711 wants 8 to 88")
    token = ear.sign(ear.claims(appraisal, issued_at=evidence.now(), nonce=args.nonce), key)
    write_atomic(Path(args.ear), token.encode() + b"\n")


def run_explain(args: argparse.Namespace) -> ExitCode:
    """``quote explain``; rejected is what is not genuine, so that there is no TCB to explain."""
    from tdxstack.dcap.document import explanation_members
    from tdxstack.dcap.explain import explain

    verification, fault = _verify(args)
    if fault:
        raise fault
    body = output.document("quote-explanation", explanation_members(explain(verification)))
    output.emit(args, body, lambda: _explanation_text(body))
    return ExitCode.DONE if verification.genuine else ExitCode.REJECTED


def exit_code(appraisal: Appraisal, fault: CollateralError | None) -> ExitCode:
    """0 accepted, 3 rejected, 5 if it is collateral that is missing or expired."""
    from tdxstack.dcap.appraisal import is_collateral_fault

    if appraisal.accepted and fault is None:
        return ExitCode.DONE
    if fault is not None:
        # What is wrong with the quote itself does not wait for collateral.
        unreadable = appraisal.verification.judgement.fault_offset is not None
        return ExitCode.COLLATERAL if _absent(fault) and not unreadable else ExitCode.REJECTED
    return ExitCode.COLLATERAL if is_collateral_fault(appraisal) else ExitCode.REJECTED


def _absent(fault: CollateralError) -> bool:
    """Whether the file or an item of it is absent, rather than that the document is none."""
    return fault.item != "collateral"


def _verify(args: argparse.Namespace) -> tuple[Verification, CollateralError | None]:
    from tdxstack.dcap import Verifier

    raw = evidence.read_quote(args.quote)
    at = evidence.moment(args)
    named = args.collateral is not None
    given = evidence.collateral_for(args.collateral, raw, at) if named else evidence.kept_collateral(raw, at)
    collateral, fault = given
    verifier = Verifier(collateral=collateral, roots=evidence.read_roots(args.trust_root))
    return verifier.verify(raw, now=at), fault


def show_members(quote: Quote) -> dict[str, Any]:
    """What the quote says, as plain values."""
    header = quote.header
    return {
        "version": header.version,
        "tee": "tdx" if isinstance(quote.body, TdReportBody) else "sgx",
        "body_type": int(quote.body_type),
        "qe_vendor_id": header.qe_vendor_id.hex(),
        "user_data": header.user_data.hex(),
        "body": body_members(quote.body),
        "signature": _signature_members(quote),
        "trailing_bytes": len(quote.trailing),
    }


def _signature_members(quote: Quote) -> dict[str, Any]:
    outer = quote.signature.certification
    members: dict[str, Any] = {"attestation_key": quote.signature.attestation_key.hex()}
    if isinstance(outer, CertificationData):
        return members | {"certification_type": outer.type}
    members["certification_type"] = outer.certification.type
    members["qe"] = {
        "mr_enclave": outer.qe_report.mr_enclave.hex(),
        "mr_signer": outer.qe_report.mr_signer.hex(),
        "isv_prod_id": outer.qe_report.isv_prod_id,
        "isv_svn": outer.qe_report.isv_svn,
    }
    return members | {"pck": _pck_members(outer)}


def _pck_members(certification: QeCertification) -> dict[str, Any] | None:
    """What the PCK certificate in the quote says; None if there is none."""
    inner = certification.certification
    if inner.type not in (CertificationType.PCK_LEAF, CertificationType.PCK_CHAIN):
        return None
    for body in _PEM.findall(inner.data)[:3]:
        try:
            sgx = find_in_certificate(binascii.a2b_base64(body))
        except ValueError:
            continue
        if sgx is not None:
            return {
                "ca": "processor" if sgx.platform_instance_id is None else "platform",
                "fmspc": sgx.fmspc.hex(),
                "pce_id": sgx.pce_id.hex(),
                "ppid": sgx.ppid.hex(),
                "components": list(sgx.tcb.components),
                "pce_svn": sgx.tcb.pce_svn,
            }
    return None


def output_text(members: dict[str, Any], indent: str = "") -> str:
    """Plain values, one on a line, nested ones indented."""
    lines = []
    for name, value in members.items():
        if isinstance(value, dict):
            lines.append(f"{indent}{name}:")
            lines.append(output_text(value, indent + "  "))
        elif isinstance(value, list) and value and len(str(value[0])) > 40:
            lines.append(f"{indent}{name}:")
            lines.extend(f"{indent}  [{index}] {item}" for index, item in enumerate(value))
        elif isinstance(value, list):
            lines.append(f"{indent}{name}: {' '.join(str(item) for item in value) or '-'}")
        elif name != "schema":
            lines.append(f"{indent}{name}: {'-' if value is None else value}")
    return "\n".join(lines)


def _verdict_text(body: dict[str, Any]) -> str:
    marks = {"pass": "ok  ", "fail": "FAIL", "expired": "OLD ", "warn": "warn", "skip": "-   "}
    lines = [f"{marks[step['outcome']]} {step['name']:<22} {step['detail']}".rstrip() for step in body["steps"]]
    for rule in body["policy"]["rules"]:
        if rule["outcome"] == "fail":
            lines.append(f"FAIL {rule['name']}: wanted {rule['wanted']}, found {rule['actual']}")
    platform = " (software platform: protects nothing)" if body["software"] else ""
    lines.append("")
    lines.append(f"TCB        {body['launch_status'] or '-'}, now {body['current_status'] or '-'}")
    if body["advisories"]:
        lines.append(f"advisories {' '.join(body['advisories'])}")
    if body["expiry"]["earliest"]:
        lines.append(f"expires    {body['expiry']['earliest']} ({body['expiry']['item']})")
    lines.append(f"policy     {body['policy']['name']}: {'holds' if body['policy']['holds'] else 'does not hold'}")
    by_policy = body["authentic"] and not body["expiry"]["expired"]
    verdict = "accepted" if body["accepted"] else "REJECTED by the policy" if by_policy else "REJECTED"
    lines.append(f"verdict    {verdict}: {body['status']}{platform}")
    if body["hint"]:
        lines.append(f"next       {body['hint']}")
    return "\n".join(lines)


def _explanation_text(body: dict[str, Any]) -> str:
    lines = [f"status: {body['status']}"]
    if body["note"]:
        lines.append(f"note: {body['note']}")
    for title, parts in (("at launch", body["launch"]), ("now", body["current"])):
        for part in parts or ():
            status = part["status"] or "reaches no level"
            date = f", TCB of {part['tcb_date']}" if part["tcb_date"] else ""
            lines.append(f"{part['part']} {title}: {status}{date}")
            if part["advisories"]:
                lines.append(f"    advisories: {' '.join(part['advisories'])}")
            for gap in part["gaps"]:
                name = f" ({gap['name']})" if gap["name"] else ""
                lines.append(f"    {gap['component']}{name}: has {gap['have']}, needs {gap['need']}: {gap['remedy']}")
    for remedy in body["remedies"]:
        lines.append(f"remedy: {remedy['class']}: {remedy['what']}")
    return "\n".join(lines)

"""Rego policies in the shape of Trustee's attestation service, run by ``regopy`` (the rego-cpp interpreter).

Such a policy is a module of package ``policy`` that gives AR4SI claims as numbers (``executables``, ``hardware``,
``configuration`` and so on, or all of them as ``trust_claims``), looks at ``input.tdx`` (Trustee's claims of a TDX
quote) and asks ``query_reference_value(name)`` for reference values. Evidence passes if every claim that it makes is
affirming or none. ``regopy`` is an optional part: ``pip install 'tdxstack[rego]'``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tdxstack.dcap.appraisal import iso
from tdxstack.dcap.ear import Tier
from tdxstack.dcap.event_rules import Rule
from tdxstack.dcap.supplemental import Supplemental
from tdxstack.dcap.verification import Verification
from tdxstack.errors import PlatformMissing, UsageError
from tdxstack.wire.quote import BODY_SIZES, Quote, TdReportBody
from tdxstack.wire.sgx_extension import SgxType
from tdxstack.wire.tdreport import TdAttributes

MAX_SIZE = 1 << 20
CLAIMS = (
    "executables", "hardware", "configuration", "file-system", "instance-identity", "runtime-opaque",
    "storage-opaque", "sourced-data",
)  # fmt: skip
#: Quotes from this version on say what body they have.
_WITH_DESCRIPTOR = 5
_SGX_TYPES: dict[int, str] = {
    SgxType.STANDARD: "Standard",
    SgxType.SCALABLE: "Scalable",
    SgxType.SCALABLE_WITH_INTEGRITY: "Scalable with Integrity",
}
#: The function that Trustee adds to the language, in the language; what has no value is an empty list.
_REFERENCE = """package policy
import rego.v1
query_reference_value(name) := value if { value := data.reference[name] }
query_reference_value(name) := [] if { not _has_reference_value(name) }
_has_reference_value(name) if { _ = data.reference[name] }
"""


@dataclass(frozen=True, slots=True)
class RegoPolicy:
    """A policy's text, and reference values by name (a value, or a list of those that are accepted)."""

    source: str
    reference: Mapping[str, Any]

    @classmethod
    def from_text(cls, source: str, reference: str = "{}") -> RegoPolicy:
        """``reference`` is a JSON object. Raises UsageError."""
        if max(len(source), len(reference)) > MAX_SIZE:
            raise UsageError(f"Rego policy or reference values: more than {MAX_SIZE} characters")
        try:
            values = json.loads(reference)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"reference values: {error}") from None
        if not isinstance(values, dict):
            raise UsageError("reference values: not a JSON object")
        return cls(source, values)

    def evaluate(self, members: Mapping[str, Any]) -> dict[str, int]:
        """The policy's claims by AR4SI name, for the given ``input``.

        Raises:
            UsageError: the policy is not one, or makes no claim.
            PlatformMissing: ``regopy`` is not installed.
        """
        try:
            from regopy import Interpreter, RegoError  # type: ignore[import-not-found,import-untyped,unused-ignore]
        except ImportError:
            raise PlatformMissing("Rego policies need regopy", hint="pip install 'tdxstack[rego]'") from None
        interpreter = Interpreter()
        try:
            interpreter.set_input(dict(members))  # pyright: ignore[reportArgumentType]
            interpreter.add_data({"reference": dict(self.reference)})
            interpreter.add_module("policy", self.source)
            interpreter.add_module("reference", _REFERENCE)
            answer = json.loads(str(interpreter.query("claims := data.policy")))
        except (RegoError, ValueError) as error:
            raise UsageError(f"Rego policy: {str(error).splitlines()[0] if str(error) else error}") from None
        return _claims(answer.get("bindings", {}).get("claims"))

    def rules(self, members: Mapping[str, Any]) -> tuple[Rule, ...]:
        """A rule for each claim. Raises as :meth:`evaluate` does."""
        wanted = "0 (none) or 2 to 31 (affirming)"
        return tuple(
            Rule(f"rego.{name}", Tier.of(value) in (Tier.NONE, Tier.AFFIRMING), wanted, str(value))
            for name, value in self.evaluate(members).items()
        )


_CLAIM_HINT = "package policy has to give executables, hardware or configuration as numbers"


def _claims(answer: Any) -> dict[str, int]:
    if isinstance(answer, dict) and isinstance(answer.get("trust_claims"), dict):
        answer = answer["trust_claims"]
    members = answer if isinstance(answer, dict) else {}
    found: dict[str, int] = {}
    for name in CLAIMS:
        value = members.get(name, members.get(name.replace("-", "_")))
        if value is None:
            continue
        if type(value) is not int or not -128 <= value <= 127:
            raise UsageError(f"Rego policy: {name} is {value!r:.40}, not a number from -128 to 127", hint=_CLAIM_HINT)
        found[name] = value
    if not any(found.values()):
        raise UsageError("Rego policy: no claim is made", hint=_CLAIM_HINT)
    return found


def trustee_input(verification: Verification, events: Sequence[Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """What Trustee's verifier gives its policies of a TDX quote; ``events`` are those of the log, if there is one."""
    quote = verification.quote
    if quote is None or not isinstance(quote.body, TdReportBody):
        return {"sgx": {}} if quote else {}
    body = quote.body
    claims: dict[str, Any] = {
        "quote": _quote(quote, body),
        "td_attributes": {
            "debug": bool(body.td_attributes & TdAttributes.DEBUG),
            "septve_disable": bool(body.td_attributes & TdAttributes.SEPT_VE_DISABLE),
            "protection_keys": bool(body.td_attributes & TdAttributes.PKS),
            "key_locker": bool(body.td_attributes & TdAttributes.KL),
            "perfmon": bool(body.td_attributes & TdAttributes.PERFMON),
        },
        "report_data": body.report_data.hex(),
        "init_data": body.mr_config_id.hex(),
        # A quote that does not verify has no TCB status, whatever its platform's would be.
        "tcb_status": str(verification.launch_status) if verification.authentic else verification.status,
        "advisory_ids": list(verification.advisories),
        "collateral_expiration_status": str(int(verification.expired)),
        **_platform(verification.supplemental),
    }
    if verification.authentic:
        claims["tcb_status_current"] = str(verification.current_status)
    if events is not None:
        claims["uefi_event_logs"] = list(events)
    return {"tdx": claims}


def _platform(supplemental: Supplemental) -> dict[str, Any]:
    """Trustee's names of the supplemental data; what is not known is left out."""
    kind = supplemental.sgx_type
    dates = {
        "earliest_issue_date": supplemental.earliest_issue_date or None,
        "latest_issue_date": supplemental.latest_issue_date or None,
        "earliest_expiration_date": supplemental.earliest_expiration_date or None,
        "tcb_date": supplemental.tcb_level_date,
    }
    values = {
        **{name: None if date is None else iso(date) for name, date in dates.items()},
        "pck_crl_num": supplemental.pck_crl_number,
        "root_ca_crl_num": supplemental.root_ca_crl_number,
        "tcb_eval_num": supplemental.tcb_evaluation_number,
        "platform_provider_id": supplemental.ppid,
        "platform_instance_id": supplemental.platform_instance_id,
        "sgx_type": None if kind is None else _SGX_TYPES.get(kind, f"Unknown ({kind})"),
        "is_dynamic_platform": supplemental.dynamic_platform,
        "is_cached_keys": supplemental.cached_keys,
        "is_smt_enabled": supplemental.smt_enabled,
        "root_key_id": supplemental.root_key_id,
    }
    return {name: value for name, value in values.items() if value is not None}


def _quote(quote: Quote, body: TdReportBody) -> dict[str, Any]:
    found: dict[str, Any] = {"header": _header(quote), "body": _body(body)}
    if quote.header.version == _WITH_DESCRIPTOR:
        kind = body.body_type
        found |= {"type": _little(kind, 2), "size": _little(BODY_SIZES[kind], 4)}
    return found


def _little(value: int, size: int) -> str:
    return value.to_bytes(size, "little").hex()


def _header(quote: Quote) -> dict[str, str]:
    header = quote.header
    return {
        "version": _little(header.version, 2),
        "att_key_type": _little(header.att_key_type, 2),
        "tee_type": _little(header.tee_type, 4),
        "reserved": _little(header.qe_svn, 2) + _little(header.pce_svn, 2),
        "vendor_id": header.qe_vendor_id.hex(),
        "user_data": header.user_data.hex(),
    }


def _body(body: TdReportBody) -> dict[str, str]:
    newer = {"tee_tcb_svn2": body.tee_tcb_svn2, "mr_servicetd": body.mr_service_td}
    return {
        "tcb_svn": body.tee_tcb_svn.hex(),
        "mr_seam": body.mr_seam.hex(),
        "mrsigner_seam": body.mr_signer_seam.hex(),
        "seam_attributes": _little(body.seam_attributes, 8),
        "td_attributes": _little(body.td_attributes, 8),
        "xfam": _little(body.xfam, 8),
        "mr_td": body.mr_td.hex(),
        "mr_config_id": body.mr_config_id.hex(),
        "mr_owner": body.mr_owner.hex(),
        "mr_owner_config": body.mr_owner_config.hex(),
        **{f"rtmr_{index}": rtmr.hex() for index, rtmr in enumerate(body.rtmrs)},
        "report_data": body.report_data.hex(),
        **{name: value.hex() for name, value in newer.items() if value is not None},
    }

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
from tdxstack.dcap.verification import Verification
from tdxstack.errors import PlatformMissing, UsageError
from tdxstack.wire.quote import Quote, TdReportBody
from tdxstack.wire.tdreport import TdAttributes

MAX_SIZE = 1 << 20
CLAIMS = (
    "executables", "hardware", "configuration", "file-system", "instance-identity", "runtime-opaque",
    "storage-opaque", "sourced-data",
)  # fmt: skip
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
        "quote": {"header": _header(quote), "body": _body(body)},
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
    }
    if verification.tcb_date is not None:
        claims["tcb_date"] = iso(verification.tcb_date)
    supplemental = verification.supplemental
    for name, value in (
        ("tcb_eval_num", supplemental.tcb_evaluation_number),
        ("platform_instance_id", supplemental.platform_instance_id),
        ("root_key_id", supplemental.root_key_id),
        ("sgx_type", supplemental.sgx_type),
    ):
        if value is not None:
            claims[name] = value
    if events is not None:
        claims["uefi_event_logs"] = list(events)
    return {"tdx": claims}


def _header(quote: Quote) -> dict[str, str]:
    header = quote.header
    return {
        "version": header.version.to_bytes(2, "little").hex(),
        "att_key_type": header.att_key_type.to_bytes(2, "little").hex(),
        "tee_type": header.tee_type.to_bytes(4, "little").hex(),
        "vendor_id": header.qe_vendor_id.hex(),
        "user_data": header.user_data.hex(),
    }


def _body(body: TdReportBody) -> dict[str, str]:
    return {
        "tcb_svn": body.tee_tcb_svn.hex(),
        "mr_seam": body.mr_seam.hex(),
        "mrsigner_seam": body.mr_signer_seam.hex(),
        "seam_attributes": body.seam_attributes.to_bytes(8, "little").hex(),
        "td_attributes": body.td_attributes.to_bytes(8, "little").hex(),
        "xfam": body.xfam.to_bytes(8, "little").hex(),
        "mr_td": body.mr_td.hex(),
        "mr_config_id": body.mr_config_id.hex(),
        "mr_owner": body.mr_owner.hex(),
        "mr_owner_config": body.mr_owner_config.hex(),
        **{f"rtmr_{index}": rtmr.hex() for index, rtmr in enumerate(body.rtmrs)},
        "report_data": body.report_data.hex(),
    }

"""Appraisal: a verification judged by a policy, rule by rule, each with what was wanted and what was there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from tdxstack.dcap.certificate import Certificate, CertificateFault
from tdxstack.dcap.chain import Chain
from tdxstack.dcap.event_rules import BootRecord, Rule, event_rules
from tdxstack.dcap.policy import Policy
from tdxstack.dcap.policy_sections import DAY, XFAM_FIXED0, XFAM_FIXED1
from tdxstack.dcap.status import QvlStatus, TcbStatus
from tdxstack.dcap.supplemental import Supplemental
from tdxstack.dcap.verification import Verification
from tdxstack.errors import WireError
from tdxstack.wire.quote import PPID_SIZES, CertificationType, QeCertification, Quote, TdReportBody, TeeType
from tdxstack.wire.sgx_report import SgxReportBody
from tdxstack.wire.tdreport import TD_ATTRIBUTES_DEFINED, TdAttributes

#: Half the order of P-256: a signature with a larger s has a twin with a smaller one.
_HALF_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551 // 2
_OUT_OF_DATE = (TcbStatus.OUT_OF_DATE, TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED)


@dataclass(frozen=True, slots=True)
class Appraisal:
    """The outcome. ``rules`` are those that the policy has for this evidence."""

    policy: Policy
    verification: Verification
    rules: tuple[Rule, ...]

    @property
    def accepted(self) -> bool:
        """Whether the evidence verifies, its collateral is valid (or in its grace), and every rule holds."""
        return self.verification.authentic and self.fresh and all(rule.holds for rule in self.rules)

    @property
    def fresh(self) -> bool:
        """Whether the collateral is valid, counting the policy's grace."""
        if not self.verification.expired:
            return True
        return self.policy.collateral.grace_days > 0 and _in_grace(self.verification, self.policy)

    @property
    def failed(self) -> tuple[Rule, ...]:
        """The rules that do not hold."""
        return tuple(rule for rule in self.rules if not rule.holds)


def appraise(
    verification: Verification,
    policy: Policy,
    *,
    report_data: bytes | None = None,
    boot: BootRecord | None = None,
    more: tuple[Rule, ...] = (),
) -> Appraisal:
    """Judge by ``policy``; ``report_data`` (up to 64 bytes), if given, takes the place of the policy's own.

    ``boot`` is what an event log says (``tdxstack.measure.boot``); without one, rules on events do not hold.
    ``more`` are rules that were judged elsewhere, such as those of a Rego policy.

    Rules are judged also where verification failed, as far as the quote can be read, so that all faults are seen at
    once; such evidence is not accepted whatever they say.
    """
    if report_data is not None:
        policy = replace(policy, binding=replace(policy.binding, report_data=(report_data,)))
    rules: list[Rule] = []
    for group in _GROUPS:
        rules.extend(group(verification, policy))
    rules.extend(event_rules(verification.quote, policy, boot))
    return Appraisal(policy, verification, (*rules, *more))


def _in_grace(verification: Verification, policy: Policy) -> bool:
    """Whether nothing is expired for longer than the grace; a CRL from the future has none."""
    grace, documents = policy.collateral.grace_days * DAY, verification.documents
    outcomes = (verification.pck.outcome, documents.tcb_info_outcome, documents.identity_outcome)
    windows = [window for outcome in outcomes for window in outcome.windows]
    return all(window.holds(max(verification.now - grace, window.start or 0)) for window in windows) and all(
        window.start is None or window.start <= verification.now for window in windows
    )


def _tcb_rules(verification: Verification, policy: Policy) -> Iterator[Rule]:
    tcb, verdict = policy.tcb, verification.verdict
    numbers = [d.evaluation_number for d in (verification.documents.tcb_info, verification.documents.identity) if d]
    if verdict is not None:
        status = verdict.launch_status
        accepted = status.value in tcb.accepted_statuses
        if not accepted and tcb.grace_days and status in _OUT_OF_DATE:
            accepted = verification.now <= verdict.launch.tcb_date + tcb.grace_days * DAY
        yield Rule("tcb.accepted_statuses", accepted, _any(tcb.accepted_statuses), status.value)
        if tcb.accepted_current_statuses:
            current = verdict.current_status.value
            holds = current in tcb.accepted_current_statuses
            yield Rule("tcb.accepted_current_statuses", holds, _any(tcb.accepted_current_statuses), current)
        yield from _advisory_rules(verdict.launch.advisories, policy)
    if tcb.min_evaluation_number and numbers:
        least = min(numbers)
        wanted = f"at least {tcb.min_evaluation_number}"
        yield Rule("tcb.min_evaluation_number", least >= tcb.min_evaluation_number, wanted, str(least))
    if tcb.require_equal_evaluation_numbers and len(numbers) == 2:
        actual = f"TCB info {numbers[0]}, QE identity {numbers[1]}"
        yield Rule("tcb.require_equal_evaluation_numbers", numbers[0] == numbers[1], "the same number", actual)


def _advisory_rules(advisories: tuple[str, ...], policy: Policy) -> Iterator[Rule]:
    tcb, actual = policy.tcb, ", ".join(advisories) or "none"
    if tcb.rejected_advisories:
        bad = (
            advisories if "*" in tcb.rejected_advisories else [a for a in advisories if a in tcb.rejected_advisories]
        )
        yield Rule("tcb.rejected_advisories", not bad, f"none of {', '.join(tcb.rejected_advisories)}", actual)
    if tcb.accepted_advisories:
        bad = [a for a in advisories if a not in tcb.accepted_advisories]
        yield Rule("tcb.accepted_advisories", not bad, f"only {', '.join(tcb.accepted_advisories)}", actual)


def _collateral_rules(verification: Verification, policy: Policy) -> Iterator[Rule]:
    collateral, now, documents = policy.collateral, verification.now, verification.documents
    if collateral.require_not_before:
        chains: list[Chain | None] = [verification.pck.chain, documents.tcb_chain, documents.identity_chain]
        starts = [c.not_before for chain in chains if chain for c in chain.certificates]
        if starts:
            yield _time_rule("collateral.require_not_before", max(starts), now)
    if collateral.require_issued:
        issued = [d.issue_date for d in (documents.tcb_info, documents.identity) if d]
        if issued:
            yield _time_rule("collateral.require_issued", max(issued), now)
    quote = verification.quote
    if quote is not None:
        yield from _form_rules(quote, policy)
        if collateral.require_named_pck:
            yield from _named_pck_rule(quote, verification.pck.leaf)


def _time_rule(name: str, start: int, now: int) -> Rule:
    return Rule(name, start <= now, f"not after {iso(now)}", iso(start))


def _form_rules(quote: Quote, policy: Policy) -> Iterator[Rule]:
    collateral, certification = policy.collateral, quote.signature.certification
    if collateral.require_low_s:
        low = int.from_bytes(quote.signature.signature[32:], "big") <= _HALF_ORDER
        yield Rule("collateral.require_low_s", low, "s <= n/2", "s <= n/2" if low else "s > n/2")
    if collateral.require_qe_report_data_tail and isinstance(certification, QeCertification):
        tail = certification.qe_report.report_data[32:]
        yield Rule("collateral.require_qe_report_data_tail", not any(tail), "32 zero bytes", tail.hex())
    if collateral.require_reserved_header and quote.header.version > 3:
        reserved = quote.header.qe_svn | quote.header.pce_svn
        actual = f"{quote.header.qe_svn:04x} {quote.header.pce_svn:04x}"
        yield Rule("collateral.require_reserved_header", not reserved, "0000 0000", actual)


def _named_pck_rule(quote: Quote, leaf: Certificate | None) -> Iterator[Rule]:
    """Certification data of type 1 to 3: PCEID, PCE SVN (the certificate may be of an older TCB), clear PPID."""
    outer = quote.signature.certification
    if not isinstance(outer, QeCertification) or outer.certification.type not in PPID_SIZES:
        return
    name = "collateral.require_named_pck"
    try:
        named = outer.certification.pck_identity()
        sgx = leaf.sgx if leaf else None
    except (WireError, CertificateFault) as fault:
        yield Rule(name, False, "the identity of a PCK certificate", str(fault))
        return
    if sgx is None:
        yield Rule(name, False, "the PCK certificate that the quote names", "none")
        return
    clear = outer.certification.type == CertificationType.PPID_CLEAR
    holds = named.pce_id == int.from_bytes(sgx.pce_id, "little") and sgx.tcb.pce_svn <= named.pce_svn
    holds = holds and (not clear or named.ppid == sgx.ppid)
    actual = f"PCEID {sgx.pce_id.hex()}, PCE SVN {sgx.tcb.pce_svn}, PPID {sgx.ppid.hex()}"
    ppid = named.ppid.hex() if clear else "encrypted"
    wanted = f"PCEID {named.pce_id.to_bytes(2, 'little').hex()}, PCE SVN up to {named.pce_svn}, PPID {ppid}"
    yield Rule(name, holds, wanted, actual)


def _platform_rules(verification: Verification, policy: Policy) -> Iterator[Rule]:
    platform, supplemental = policy.platform, verification.supplemental
    if verification.quote is not None:
        tee = "tdx" if verification.quote.header.tee_type == TeeType.TDX else "sgx"
        yield Rule("platform.tees", tee in platform.tees, _any(platform.tees), tee)
    if verification.software:
        yield Rule("platform.allow_software", platform.allow_software, "no software platform", "a software platform")
    for name, allowed, value in (
        ("fmspcs", platform.fmspcs, supplemental.fmspc),
        ("instance_ids", platform.instance_ids, supplemental.platform_instance_id),
        ("ppids", platform.ppids, supplemental.ppid),
    ):
        if allowed:
            wanted = [item.hex() for item in allowed]
            yield Rule(f"platform.{name}", value in wanted, _any(wanted), value or "unknown")
    yield from _kind_rules(supplemental, policy)


def _kind_rules(supplemental: Supplemental, policy: Policy) -> Iterator[Rule]:
    platform = policy.platform
    for name, allowed, value in (
        ("allow_dynamic_platform", platform.allow_dynamic_platform, supplemental.dynamic_platform),
        ("allow_cached_keys", platform.allow_cached_keys, supplemental.cached_keys),
        ("allow_smt", platform.allow_smt, supplemental.smt_enabled),
    ):
        if not allowed:  # a platform that does not say is not one that says no
            yield Rule(
                f"platform.{name}", value is False, "no", "unknown" if value is None else "yes" if value else "no"
            )
    if platform.sgx_types:
        kind = supplemental.sgx_type
        yield Rule("platform.sgx_types", kind in platform.sgx_types, _any(platform.sgx_types), str(kind))


def _td_rules(verification: Verification, policy: Policy) -> Iterator[Rule]:
    body = verification.quote.body if verification.quote else None
    if not isinstance(body, TdReportBody):
        return
    yield from _attribute_rules(body, policy)
    td = policy.td
    zero = not any(body.mr_service_td or b"")
    if body.mr_service_td is not None and (td.mr_service_tds or not td.allow_service_td):
        holds = body.mr_service_td in td.mr_service_tds or (zero and not td.mr_service_tds)
        wanted = _any([item.hex() for item in td.mr_service_tds]) or "zero"
        name = "td.mr_service_tds" if td.mr_service_tds else "td.allow_service_td"
        yield Rule(name, holds, wanted, "zero" if zero else body.mr_service_td.hex())
    registers = (
        ("mr_seams", td.mr_seams, body.mr_seam),
        ("mr_tds", td.mr_tds, body.mr_td),
        *((f"rtmr{i}", allowed, body.rtmrs[i]) for i, allowed in enumerate((td.rtmr0, td.rtmr1, td.rtmr2, td.rtmr3))),
        ("mr_config_ids", td.mr_config_ids, body.mr_config_id),
        ("mr_owners", td.mr_owners, body.mr_owner),
        ("mr_owner_configs", td.mr_owner_configs, body.mr_owner_config),
    )
    for name, allowed, value in registers:
        if allowed:
            yield Rule(f"td.{name}", value in allowed, _any([item.hex() for item in allowed]), value.hex())


def _attribute_rules(body: TdReportBody, policy: Policy) -> Iterator[Rule]:
    td, bits = policy.td, body.td_attributes
    for name, allowed, bit in (
        ("allow_debug", td.allow_debug, TdAttributes.DEBUG),
        ("allow_migratable", td.allow_migratable, TdAttributes.MIGRATABLE),
        ("allow_pks", td.allow_pks, TdAttributes.PKS),
        ("allow_key_locker", td.allow_key_locker, TdAttributes.KL),
        ("allow_perfmon", td.allow_perfmon, TdAttributes.PERFMON),
    ):
        if not allowed:
            there = bool(bits & bit)
            yield Rule(f"td.{name}", not there, f"{bit.name} clear", f"{bit.name} {'set' if there else 'clear'}")
    if td.require_sept_ve_disable:
        there = bool(bits & TdAttributes.SEPT_VE_DISABLE)
        actual = f"SEPT_VE_DISABLE {'set' if there else 'clear'}"
        yield Rule("td.require_sept_ve_disable", there, "SEPT_VE_DISABLE set", actual)
    if not td.allow_reserved_attributes:
        odd = bits & ~TD_ATTRIBUTES_DEFINED
        yield Rule("td.allow_reserved_attributes", not odd, "reserved bits clear", f"{odd:#x}")
    if td.attributes is not None:
        holds = bits & td.attributes_mask == td.attributes & td.attributes_mask
        yield Rule("td.attributes", holds, f"{td.attributes:#x} under mask {td.attributes_mask:#x}", f"{bits:#x}")
    if td.xfam is not None:
        holds = body.xfam & td.xfam_mask == td.xfam & td.xfam_mask
        yield Rule("td.xfam", holds, f"{td.xfam:#x} under mask {td.xfam_mask:#x}", f"{body.xfam:#x}")
    if td.check_xfam_fixed_bits:
        holds = body.xfam & XFAM_FIXED1 == XFAM_FIXED1 and not body.xfam & ~XFAM_FIXED0
        yield Rule("td.check_xfam_fixed_bits", holds, f"{XFAM_FIXED1:#x} to {XFAM_FIXED0:#x}", f"{body.xfam:#x}")


def _enclave_rules(verification: Verification, policy: Policy) -> Iterator[Rule]:
    body = verification.quote.body if verification.quote else None
    if not isinstance(body, SgxReportBody):
        return
    enclave = policy.enclave
    if not enclave.allow_debug:
        yield Rule("enclave.allow_debug", not body.debug, "DEBUG clear", f"DEBUG {'set' if body.debug else 'clear'}")
    for name, allowed, value in (
        ("mr_enclaves", enclave.mr_enclaves, body.mr_enclave),
        ("mr_signers", enclave.mr_signers, body.mr_signer),
    ):
        if allowed:
            yield Rule(f"enclave.{name}", value in allowed, _any([item.hex() for item in allowed]), value.hex())
    if enclave.isv_prod_ids:
        holds = body.isv_prod_id in enclave.isv_prod_ids
        yield Rule("enclave.isv_prod_ids", holds, _any(enclave.isv_prod_ids), str(body.isv_prod_id))
    if enclave.min_isv_svn:
        wanted = f"at least {enclave.min_isv_svn}"
        yield Rule("enclave.min_isv_svn", body.isv_svn >= enclave.min_isv_svn, wanted, str(body.isv_svn))


def _binding_rules(verification: Verification, policy: Policy) -> Iterator[Rule]:
    if policy.binding.report_data and verification.quote is not None:
        wanted = [item.ljust(64, b"\0") for item in policy.binding.report_data]
        actual = verification.quote.body.report_data
        holds = actual in wanted
        yield Rule("binding.report_data", holds, _any([item.hex() for item in wanted]), actual.hex())


_GROUPS: tuple[Callable[[Verification, Policy], Iterator[Rule]], ...] = (
    _tcb_rules,
    _collateral_rules,
    _platform_rules,
    _td_rules,
    _enclave_rules,
    _binding_rules,
)


def _any(values: object) -> str:
    items = [str(item) for item in values] if isinstance(values, tuple | list) else []
    return " or ".join(items)


def iso(seconds: int) -> str:
    """``YYYY-MM-DDTHH:MM:SSZ`` of Unix seconds."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def is_collateral_fault(appraisal: Appraisal) -> bool:
    """Whether what stands in the way of acceptance is collateral that is missing or expired, and not the evidence."""
    verification = appraisal.verification
    if verification.missing or verification.qvl.quote is QvlStatus.MISSING_PARAMETERS:
        return True
    return verification.authentic and not appraisal.fresh

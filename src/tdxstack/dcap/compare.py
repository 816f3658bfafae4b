"""What new collateral changes: which platforms, TDX modules and quoting enclaves fall out at the next evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from tdxstack.dcap.certificate import CertificateFault
from tdxstack.dcap.enclave_identity import EnclaveIdentity
from tdxstack.dcap.explain import gaps_to
from tdxstack.dcap.status import TcbStatus, VerifyFault
from tdxstack.dcap.tcb import evaluate, isv_level, reaches
from tdxstack.dcap.tcb_info import IsvLevel, TcbInfo, TcbLevel
from tdxstack.dcap.verification import Verification
from tdxstack.wire.quote import QeCertification, TdReportBody
from tdxstack.wire.sgx_extension import PckTcb


@dataclass(frozen=True, slots=True)
class Change:
    """A TCB and its status by old and by new collateral; None where it reaches no level."""

    subject: str
    old: TcbStatus | None
    new: TcbStatus | None
    detail: str

    @property
    def falls_out(self) -> bool:
        """Whether it was up to date and is no more."""
        return self.old is TcbStatus.UP_TO_DATE and self.new is not TcbStatus.UP_TO_DATE


def compare(old: tuple[TcbInfo, EnclaveIdentity], new: tuple[TcbInfo, EnclaveIdentity]) -> tuple[Change, ...]:
    """What becomes of every level of the old collateral, by the new one: platforms, TDX modules, quoting enclaves."""
    changes = [_platform_change(level, old[0], new[0]) for level in old[0].levels]
    for module in old[0].module_identities or ():
        after = next((m for m in new[0].module_identities or () if m.id.upper() == module.id.upper()), None)
        for level in module.levels:
            subject = f"TDX module {module.id} SVN {level.isv_svn}"
            changes.append(_isv_change(subject, level, after.levels if after else ()))
    for level in old[1].levels:
        subject = f"quoting enclave {old[1].id} ISVSVN {level.isv_svn}"
        changes.append(_isv_change(subject, level, new[1].levels))
    return tuple(changes)


def _platform_change(level: TcbLevel, old: TcbInfo, new: TcbInfo) -> Change:
    """A platform that has exactly the SVNs of ``level``."""
    tcb = PckTcb(level.sgx, level.pce_svn, level.sgx)
    # The module's own components are judged by its identity where there is one.
    svn = None if level.tdx is None else bytes([0xFF, 0x01]) + level.tdx[2:]
    if level.tdx is not None and not new.module_identities:
        svn = level.tdx
    after = next((candidate for candidate in new.levels if reaches(tcb, svn, candidate)), None)
    best = next((candidate for candidate in new.levels if candidate.status is TcbStatus.UP_TO_DATE), new.levels[0])
    gaps = gaps_to(tcb, svn, best, new) if after is not best else []
    detail = ", ".join(f"{gap.component} {gap.have} < {gap.need}" for gap in gaps)
    subject = f"platform SGX {_svns(level.sgx)} PCE {level.pce_svn}" + (
        f" TDX {_svns(level.tdx)}" if level.tdx else ""
    )
    return Change(subject, level.status, after.status if after else None, detail)


def _svns(svns: bytes) -> str:
    return ".".join(str(svn) for svn in svns.rstrip(b"\0")) or "0"


def _isv_change(subject: str, old: IsvLevel, levels: tuple[IsvLevel, ...]) -> Change:
    """What becomes of a module or enclave at ``old`` by the new levels (best first; empty: it is unknown there)."""
    new = isv_level(levels, old.isv_svn)
    best = next((level for level in levels if level.status is TcbStatus.UP_TO_DATE), None)
    details = [f"SVN {old.isv_svn} < {best.isv_svn}"] if best and old.isv_svn < best.isv_svn else []
    if new is None:
        details.append("no level" if levels else "no identity")
    else:
        details += [advisory for advisory in new.advisories if advisory not in old.advisories]
    return Change(subject, old.status, new.status if new else None, ", ".join(details))


def status_by(verification: Verification, info: TcbInfo, identity: EnclaveIdentity) -> TcbStatus | None:
    """Launch status that the quote of ``verification`` has by other collateral; None if it reaches no level."""
    quote, leaf = verification.quote, verification.pck.leaf
    if quote is None or leaf is None or not isinstance(quote.signature.certification, QeCertification):
        return None
    svn = quote.body.tee_tcb_svn if isinstance(quote.body, TdReportBody) else None
    try:
        found = evaluate(leaf.sgx.tcb, svn, quote.signature.certification.qe_report.isv_svn, info, identity)
    except (VerifyFault, CertificateFault):
        return None
    return found.status

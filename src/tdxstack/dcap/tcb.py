"""TCB evaluation: which level a platform, its TDX module and its quoting enclave reach, and what they amount to.

QVL 1.27 steps 4.1.2.5.18 to 4.1.2.5.20: the platform's level, the TDX module's, the quoting enclave's, their
convergence; for TDX 1.5 bodies the same for the module that runs now, and whether a relaunch would help.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import ge

from tdxstack.dcap.enclave_identity import EnclaveIdentity
from tdxstack.dcap.status import QvlStatus, TcbStatus, VerifyFault
from tdxstack.dcap.tcb_info import IsvLevel, TcbInfo, TcbLevel
from tdxstack.wire.sgx_extension import PckTcb

_BECOMES_OUT_OF_DATE = {
    TcbStatus.UP_TO_DATE: TcbStatus.OUT_OF_DATE,
    TcbStatus.SW_HARDENING_NEEDED: TcbStatus.OUT_OF_DATE,
    TcbStatus.CONFIGURATION_NEEDED: TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED: TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
}
_OUT_OF_DATE = (TcbStatus.OUT_OF_DATE, TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation: the level of each part, and the converged status, date (Unix seconds) and advisories."""

    platform: TcbLevel
    module: IsvLevel | None
    qe: IsvLevel
    status: TcbStatus
    tcb_date: int
    advisories: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TcbVerdict:
    """``launch``: the module that the TD was started under; ``current``: the one that runs now. The same object where
    the quote knows only one. ``launch_status`` is ``launch.status``, or that a relaunch would help."""

    launch: Evaluation
    current: Evaluation
    launch_status: TcbStatus

    @property
    def current_status(self) -> TcbStatus:
        """Status by the module that runs now."""
        return self.launch_status if self.current is self.launch else self.current.status


def reaches(tcb: PckTcb, svn: bytes | None, level: TcbLevel) -> bool:
    """Whether the platform has at least every SVN of the level.

    TDX components 0 and 1 are the module's own; its identity judges them if its major version is not 0.
    """
    if tcb.pce_svn < level.pce_svn:
        return False
    if not all(map(ge, tcb.components, level.sgx)):
        return False
    if svn is None or level.tdx is None:
        return True
    start = 2 if svn[1] else 0
    return all(map(ge, svn[start:], level.tdx[start:]))


def isv_level(levels: tuple[IsvLevel, ...], svn: int) -> IsvLevel | None:
    """The first level that ``svn`` reaches, or None."""
    return next((level for level in levels if svn >= level.isv_svn), None)


def evaluate(tcb: PckTcb, svn: bytes | None, qe_svn: int, info: TcbInfo, identity: EnclaveIdentity) -> Evaluation:
    """Evaluate one TCB; ``svn`` is TEE_TCB_SVN, or None for SGX. Raises VerifyFault(TCB_NOT_SUPPORTED)."""
    platform = next((level for level in info.levels if reaches(tcb, svn, level)), None)
    if platform is None:
        raise _not_supported("the platform is below every level of the TCB info")
    module = None
    if svn is not None and svn[1]:
        module = _module_level(info, svn)
    qe = isv_level(identity.levels, qe_svn)
    if qe is None:
        raise _not_supported(f"the quoting enclave's ISVSVN {qe_svn} is below every level of its identity")
    parts = (qe,) if module is None else (qe, module)
    return Evaluation(
        platform=platform,
        module=module,
        qe=qe,
        status=converge(platform.status, *(part.status for part in parts if part.status)),
        tcb_date=min(platform.tcb_date, *(part.tcb_date for part in parts)),
        advisories=_union(platform.advisories, qe.advisories, module.advisories if module else ()),
    )


def _module_level(info: TcbInfo, svn: bytes) -> IsvLevel:
    identity = info.module_identity(svn[1])
    if identity is None:
        raise _not_supported(f"the TCB info has no identity TDX_{svn[1]:02X}")
    level = isv_level(identity.levels, svn[0])
    if level is None:
        raise _not_supported(f"TDX module SVN {svn[0]} is below every level of {identity.id}")
    if level.status is None:
        raise _not_supported(f"{identity.id}: the level of SVN {svn[0]} has a status that a module cannot have")
    return level


def converge(platform: TcbStatus, *parts: TcbStatus) -> TcbStatus:
    """Status of the platform with that of its TDX module and quoting enclave. (QVL ``convergeTcbStatuses``)"""
    if TcbStatus.REVOKED in parts:
        return TcbStatus.REVOKED
    if TcbStatus.OUT_OF_DATE in parts:
        return _BECOMES_OUT_OF_DATE.get(platform, platform)
    return platform


def relaunch(launch: TcbStatus, current: TcbStatus) -> TcbStatus:
    """Launch status, or that a relaunch is advised: the TD is out of date and the platform no more. (4.1.2.5.20.2)"""
    if launch not in _OUT_OF_DATE or current not in _BECOMES_OUT_OF_DATE:
        return launch
    if launch.needs_configuration or current.needs_configuration:
        return TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED
    return TcbStatus.TD_RELAUNCH_ADVISED


def judge(
    tcb: PckTcb, svn: bytes | None, svn2: bytes | None, qe_svn: int, *, info: TcbInfo, identity: EnclaveIdentity
) -> TcbVerdict:
    """Evaluate launch and current TCB; ``svn2`` is TEE_TCB_SVN2, or None. Raises VerifyFault(TCB_NOT_SUPPORTED)."""
    launch = evaluate(tcb, svn, qe_svn, info, identity)
    if svn2 is None or svn2 == svn:
        return TcbVerdict(launch, launch, launch.status)
    current = evaluate(tcb, svn2, qe_svn, info, identity)
    return TcbVerdict(launch, current, relaunch(launch.status, current.status))


def _union(*groups: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(advisory for group in groups for advisory in group))


def _not_supported(detail: str) -> VerifyFault:
    return VerifyFault(QvlStatus.TCB_NOT_SUPPORTED, detail)

"""Why a TCB is what it is: every component with what it has and what it needs, and what kind of remedy that is.

The measure is the best level of the collateral that is up to date (the first one if none is); the levels that the
platform, its TDX module and its quoting enclave reach come with their date and advisories.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum

from tdxstack.dcap.certificate import CertificateFault
from tdxstack.dcap.enclave_identity import EnclaveIdentity
from tdxstack.dcap.status import TcbStatus
from tdxstack.dcap.tcb import isv_level, reaches
from tdxstack.dcap.tcb_info import IsvLevel, TcbInfo, TcbLevel
from tdxstack.dcap.verification import Verification
from tdxstack.wire.quote import QeCertification, TdReportBody
from tdxstack.wire.sgx_extension import PckTcb


class Remedy(StrEnum):
    """What kind of work makes a verdict better."""

    FIRMWARE = "bios-or-microcode"
    PCE = "pce-update"
    MODULE = "tdx-module-update"
    QE = "qe-update"
    RELAUNCH = "relaunch-td"
    CONFIGURATION = "configuration"
    HARDENING = "software-hardening"
    COLLATERAL = "newer-collateral"
    REPLACE = "replace-platform"


REMEDY_TEXT = {
    Remedy.FIRMWARE: "update the BIOS or load newer microcode (then register the platform's new TCB)",
    Remedy.PCE: "update the provisioning certification enclave (SGX DCAP packages) on the host",
    Remedy.MODULE: "update the TDX module and its loader on the host",
    Remedy.QE: "update the TD quoting enclave (SGX DCAP packages) on the host",
    Remedy.RELAUNCH: "stop the TD and start it again: the host already runs a TDX module that is good enough",
    Remedy.CONFIGURATION: "change the platform's configuration (BIOS settings, SMT) as the advisories say",
    Remedy.HARDENING: "build the software in the TD or enclave with the mitigations that the advisories name",
    Remedy.COLLATERAL: "fetch newer collateral: this one does not know so new a TDX module",
    Remedy.REPLACE: "none: this TCB is revoked, its secrets may be known",
}


_MODULE_ID = re.compile(r"TDX_[0-9A-F]{2}", re.IGNORECASE)
_CONFIGURED = (TcbStatus.CONFIGURATION_NEEDED, TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED)


@dataclass(frozen=True, slots=True)
class Gap:
    """A component below what is needed."""

    component: str
    name: str
    have: int
    need: int
    remedy: Remedy


@dataclass(frozen=True, slots=True)
class Part:
    """One part (``platform``, ``tdx-module``, ``quoting-enclave``): the level it reaches and what lacks to the best.

    ``status`` is None where it reaches no level; ``date`` is in Unix seconds.
    """

    part: str
    status: TcbStatus | None
    date: int | None
    advisories: tuple[str, ...]
    gaps: tuple[Gap, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """The parts by the launch TCB and, where the quote knows both and they differ, by the one that runs now."""

    status: str
    launch: tuple[Part, ...]
    current: tuple[Part, ...] | None
    remedies: tuple[Remedy, ...]
    #: Why there is nothing to explain, or what failed before the TCB was looked at; empty otherwise.
    note: str


def explain(verification: Verification) -> Explanation:
    """Explain a verification's TCB; also of one that failed elsewhere, as far as quote and collateral can be read."""
    info, identity, quote = verification.documents.tcb_info, verification.documents.identity, verification.quote
    leaf = verification.pck.leaf
    certification = quote.signature.certification if quote else None
    note = _note(verification)
    try:
        tcb = leaf.sgx.tcb if leaf else None
    except CertificateFault:
        tcb = None
    if not (info and identity and quote and tcb and isinstance(certification, QeCertification)):
        return Explanation(verification.status, (), None, (), note or "quote or collateral cannot be read")
    body, qe_svn = quote.body, certification.qe_report.isv_svn
    svn = body.tee_tcb_svn if isinstance(body, TdReportBody) else None
    svn2 = body.tee_tcb_svn2 if isinstance(body, TdReportBody) else None
    launch = parts(tcb, svn, qe_svn, info, identity)
    current = None if svn2 in (None, svn) else parts(tcb, svn2, qe_svn, info, identity)
    return Explanation(verification.status, launch, current, _remedies(launch, current), note)


def _note(verification: Verification) -> str:
    if verification.verdict is None or not verification.authentic:
        failed = [step for step in verification.steps if step.outcome == "fail"]
        return "; ".join(f"{step.name}: {step.detail}" for step in failed)
    return "expired: " + verification.status if verification.expired else ""


def parts(tcb: PckTcb, svn: bytes | None, qe_svn: int, info: TcbInfo, identity: EnclaveIdentity) -> tuple[Part, ...]:
    """The parts of one TCB; ``svn`` is TEE_TCB_SVN, or None for SGX."""
    found = [_platform(tcb, svn, info)]
    if svn is not None and svn[1]:
        found.append(_module(svn, info))
    found.append(_isv("quoting-enclave", "ISVSVN", qe_svn, identity.levels, Remedy.QE))
    return tuple(found)


def _platform(tcb: PckTcb, svn: bytes | None, info: TcbInfo) -> Part:
    level = next((level for level in info.levels if reaches(tcb, svn, level)), None)
    best = next((level for level in info.levels if level.status is TcbStatus.UP_TO_DATE), info.levels[0])
    gaps = () if level is best else tuple(gaps_to(tcb, svn, best, info))
    if level is None:
        return Part("platform", None, None, (), gaps)
    if level.status in _CONFIGURED:  # an SVN that counts a setting, not a version
        gaps = tuple(replace(gap, remedy=Remedy.CONFIGURATION) for gap in gaps)
    return Part("platform", level.status, level.tcb_date, level.advisories, gaps)


def gaps_to(tcb: PckTcb, svn: bytes | None, best: TcbLevel, info: TcbInfo) -> list[Gap]:
    """What a platform lacks to reach the level ``best`` of ``info``."""
    sgx_names = info.component_names(best, "sgxtcbcomponents")
    tdx_names = info.component_names(best, "tdxtcbcomponents")
    gaps = []
    for index, (have, need) in enumerate(zip(tcb.components, best.sgx, strict=True)):
        if have < need:
            name = sgx_names[index]
            gaps.append(Gap(f"sgxtcbcomponents[{index}]", name, have, need, _kind(name)))
    if tcb.pce_svn < best.pce_svn:
        gaps.append(Gap("pcesvn", "Provisioning Certification Enclave", tcb.pce_svn, best.pce_svn, Remedy.PCE))
    if svn is not None and best.tdx is not None:
        for index in range(2 if svn[1] else 0, 16):
            if svn[index] < best.tdx[index]:
                name = tdx_names[index]
                remedy = Remedy.MODULE if index < 2 else _kind(name)
                gaps.append(Gap(f"tdxtcbcomponents[{index}]", name, svn[index], best.tdx[index], remedy))
    return gaps


def _kind(name: str) -> Remedy:
    """Remedy by the component's category and type; what has no name comes with BIOS or microcode."""
    return Remedy.MODULE if "TDX Module" in name or "SEAMLDR" in name else Remedy.FIRMWARE


def _module(svn: bytes, info: TcbInfo) -> Part:
    identity = info.module_identity(svn[1])
    if identity is None:
        return Part("tdx-module", None, None, (), (_unknown_module(svn[1], info),))
    return _isv("tdx-module", f"{identity.id} ISVSVN", svn[0], identity.levels, Remedy.MODULE)


def _unknown_module(major: int, info: TcbInfo) -> Gap:
    """A major version without an identity: what is needed is the next one that has one."""
    names = [module.id for module in info.module_identities or ()]
    known = sorted(int(name[4:], 16) for name in names if _MODULE_ID.fullmatch(name))
    need = next((one for one in known if one > major), known[-1] if known else 0)
    remedy = Remedy.MODULE if need > major else Remedy.COLLATERAL
    text = f"TDX_{major:02X} is unknown, known: {', '.join(names) or 'none'}"
    return Gap("tdx-module major version", text, major, need, remedy)


def _isv(part: str, component: str, svn: int, levels: tuple[IsvLevel, ...], remedy: Remedy) -> Part:
    level = isv_level(levels, svn)
    best = next((level for level in levels if level.status is TcbStatus.UP_TO_DATE), levels[0])
    gaps = (Gap(component, "", svn, best.isv_svn, remedy),) if svn < best.isv_svn else ()
    if level is None:
        return Part(part, None, None, (), gaps)
    return Part(part, level.status, level.tcb_date, level.advisories, gaps)


def _remedies(launch: tuple[Part, ...], current: tuple[Part, ...] | None) -> tuple[Remedy, ...]:
    """Each kind of work once, in order of the parts; nothing for what is up to date."""
    found: list[Remedy] = []
    if current is not None and _up_to_date(current) - _up_to_date(launch):
        found.append(Remedy.RELAUNCH)
    for part in current or launch:  # what the host has mended already needs no update, only the relaunch
        if part.status is TcbStatus.UP_TO_DATE:
            continue
        if part.status is TcbStatus.REVOKED and not part.gaps:
            found.append(Remedy.REPLACE)
        found += [gap.remedy for gap in part.gaps]
        if part.status and part.status.needs_configuration:
            found.append(Remedy.CONFIGURATION)
        if part.status in (TcbStatus.SW_HARDENING_NEEDED, TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED):
            found.append(Remedy.HARDENING)
    return tuple(dict.fromkeys(found))


def _up_to_date(parts: tuple[Part, ...]) -> set[str]:
    return {part.part for part in parts if part.status is TcbStatus.UP_TO_DATE}

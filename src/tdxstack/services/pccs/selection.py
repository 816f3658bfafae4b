"""Which of a platform's PCK certificates fits the TCB that it reports.

Intel "PCK Certificate Selection": certificates are put in order by the TCB level of the TCB info that they reach
(best level first), and the first whose raw TCB is not above the platform's is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tdxstack.dcap.certificate import Certificate, CertificateFault, split_pem
from tdxstack.dcap.tcb_info import TcbInfo
from tdxstack.pcs.source import PckCertificate
from tdxstack.services.pccs.records import RawTcb
from tdxstack.wire.sgx_extension import SgxExtension


class SelectionFault(ValueError):
    """Certificates and TCB info that do not belong together; says why."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    certificate: PckCertificate
    sgx: SgxExtension

    @property
    def order(self) -> tuple[bytes, int]:
        return self.sgx.tcb.components, self.sgx.tcb.pce_svn

    def reaches(self, components: bytes, pce_svn: int) -> bool:
        return _covers(self.sgx.tcb.components, components) and self.sgx.tcb.pce_svn >= pce_svn


def pce_svn_of(text: str) -> int:
    """The number of a PCE SVN given as 4 hexadecimal digits, little-endian."""
    return int.from_bytes(bytes.fromhex(text), "little")


def extension_of(pem: str) -> SgxExtension:
    """The SGX extension of a PCK certificate in PEM.

    Raises:
        SelectionFault: it is no PCK certificate.
    """
    try:
        ders = split_pem(pem.encode("utf-8", "surrogatepass"))
        if not ders:
            raise SelectionFault("no certificate")
        return Certificate(ders[0]).sgx
    except CertificateFault as fault:
        raise SelectionFault(f"PCK certificate: {fault}") from None


def select(raw: RawTcb, certificates: Sequence[PckCertificate], info: TcbInfo, pce_id: str) -> PckCertificate | None:
    """The certificate for a platform at ``raw``, or None if all are above it.

    Raises:
        SelectionFault: a certificate is of another platform, PCE or FMSPC than the others and the TCB info.
    """
    candidates = [_Candidate(one, extension_of(one.pem)) for one in certificates]
    _check(candidates, info, pce_id)
    cpu_svn, pce_svn = bytes.fromhex(raw.cpu_svn), pce_svn_of(raw.pce_svn)
    for candidate in _ordered(candidates, info):
        tcb = candidate.sgx.tcb
        if _covers(cpu_svn, tcb.cpu_svn) and pce_svn >= tcb.pce_svn:
            return candidate.certificate
    return None


def reachable(raw: RawTcb, tcbms: Iterable[str]) -> bool:
    """Whether a platform at ``raw`` is at or above one of these TCBMs (CPUSVN and PCE SVN in hexadecimal)."""
    cpu_svn, pce_svn = bytes.fromhex(raw.cpu_svn), pce_svn_of(raw.pce_svn)
    return any(_covers(cpu_svn, bytes.fromhex(tcbm[:32])) and pce_svn >= pce_svn_of(tcbm[32:36]) for tcbm in tcbms)


def _check(candidates: Sequence[_Candidate], info: TcbInfo, pce_id: str) -> None:
    if info.pce_id.hex().upper() != pce_id.upper():
        raise SelectionFault("the TCB info is for another PCE")
    for candidate in candidates:
        if candidate.sgx.pce_id != info.pce_id:
            raise SelectionFault("a certificate is of another PCE than the TCB info")
        if candidate.sgx.fmspc != info.fmspc:
            raise SelectionFault("a certificate has another FMSPC than the TCB info")
        if candidate.sgx.ppid != candidates[0].sgx.ppid:
            raise SelectionFault("the certificates are of several platforms")


def _ordered(candidates: Sequence[_Candidate], info: TcbInfo) -> list[_Candidate]:
    """By the best level that each reaches; within a level, and below all levels, the higher TCB first."""
    left = sorted(candidates, key=lambda candidate: candidate.order, reverse=True)
    ordered: list[_Candidate] = []
    for level in info.levels:
        ordered += [candidate for candidate in left if candidate.reaches(level.sgx, level.pce_svn)]
        left = [candidate for candidate in left if not candidate.reaches(level.sgx, level.pce_svn)]
    return ordered + left


def _covers(have: bytes, want: bytes) -> bool:
    return all(mine >= wanted for mine, wanted in zip(have, want, strict=True))

"""A provisioning service with several platforms and TCB levels under a PKI of its own, as a Source without a network.

Times are relative to NOW, which the services under test are given as their clock.
"""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from tdxstack.errors import CollateralAbsent, CollateralUnreachable
from tdxstack.pcs import inspect
from tdxstack.pcs.source import (
    STANDARD,
    Ca,
    Crl,
    Enclave,
    EvaluationSet,
    PckCertificate,
    PckCertificates,
    PlatformIdentity,
    SignedDocument,
    Tee,
)
from tdxstack.platform.software.collateral import sign_raw
from tdxstack.platform.software.pki import Pki, make_crl, make_pki, reissue_pck
from tdxstack.platform.software.sgx_extension import SgxExtension

NOW = 1_781_481_600
FMSPC = "00A06F050000"
PCE_ID = "0000"
QE_ID = "0123456789ABCDEF0123456789ABCDEF"
PPID = "AB" * 384
#: TCB levels, best first: component SVNs and PCE SVN.
LEVELS = [(bytes([8] * 16), 13), (bytes([5] * 16), 11), (bytes([2] * 16), 5)]
NUMBERS = {"standard": 17, "early": 18}


def moment(seconds: int = NOW) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def extension(components: bytes, pce_svn: int) -> SgxExtension:
    return SgxExtension(
        ppid=bytes(range(16)),
        components=components,
        pcesvn=pce_svn,
        cpusvn=components,
        pceid=bytes.fromhex(PCE_ID),
        fmspc=bytes.fromhex(FMSPC),
        platform_instance_id=bytes(range(16)),
    )


def tcbm(components: bytes, pce_svn: int) -> str:
    return (components + pce_svn.to_bytes(2, "little")).hex().upper()


@cache
def pki() -> Pki:
    return make_pki("test", extension(*LEVELS[0]), moment(NOW - 86400))


@cache
def certificate(components: bytes, pce_svn: int) -> PckCertificate:
    issued = reissue_pck(pki(), "test", extension(components, pce_svn), moment(NOW - 86400))
    return PckCertificate(tcbm(components, pce_svn), issued.pem)


def _date(seconds: int) -> str:
    return moment(seconds).strftime("%Y-%m-%dT%H:%M:%SZ")


def signed(member: str, value: dict[str, Any]) -> SignedDocument:
    return _signed(member, json.dumps(value, separators=(",", ":")))


@cache
def _signed(member: str, text: str) -> SignedDocument:
    signature = sign_raw(pki().tcb_signing.key, text.encode()).hex()
    return SignedDocument(inspect.response(member, text, signature), pki().tcb_signing_chain)


def _level(tee: Tee, components: bytes, pce_svn: int, status: str) -> dict[str, Any]:
    tcb: dict[str, Any] = {"sgxtcbcomponents": [{"svn": svn} for svn in components], "pcesvn": pce_svn}
    if tee is Tee.TDX:
        tcb["tdxtcbcomponents"] = [{"svn": 0}] * 16
    return {"tcb": tcb, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": status}


class FakeIntel:
    """What it answers can be changed: ``down``, ``lacks`` (names of methods), ``lifetime`` in days."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.down = False
        self.lacks: set[str] = set()
        self.issued = NOW - 3600
        self.lifetime = timedelta(days=30)
        self.certificates = [certificate(*level) for level in LEVELS]
        self.unavailable: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return "https://intel.test"

    def close(self) -> None:
        pass

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.down:
            raise CollateralUnreachable(what, f"{what}: down")
        if what in self.lacks:
            raise CollateralAbsent(what, f"{what}: none")

    def _dates(self) -> dict[str, str]:
        return {
            "issueDate": _date(self.issued),
            "nextUpdate": _date(self.issued + int(self.lifetime.total_seconds())),
        }

    def tcb_info(self, tee: Tee, fmspc: str, evaluation: EvaluationSet = STANDARD) -> SignedDocument:
        self._ask(f"tcb {tee} {evaluation}")
        if fmspc.upper() != FMSPC:
            raise CollateralAbsent("tcb", "no such FMSPC")
        statuses = ["UpToDate"] + ["OutOfDate"] * (len(LEVELS) - 1)
        value: dict[str, Any] = {
            "id": tee.upper(),
            "version": 3,
            **self._dates(),
            "fmspc": FMSPC,
            "pceId": PCE_ID,
            "tcbType": 0,
            "tcbEvaluationDataNumber": evaluation.number or NUMBERS[evaluation.name],
            "tcbLevels": [_level(tee, *level, status) for level, status in zip(LEVELS, statuses, strict=True)],
        }
        if tee is Tee.TDX:
            value["tdxModule"] = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
        return signed(inspect.TCB_INFO, value)

    def identity(self, enclave: Enclave, evaluation: EvaluationSet = STANDARD) -> SignedDocument:
        self._ask(f"identity {enclave} {evaluation}")
        value = {
            "id": enclave.value,
            "version": 2,
            **self._dates(),
            "tcbEvaluationDataNumber": evaluation.number or NUMBERS[evaluation.name],
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "00" * 16,
            "attributesMask": "FF" * 16,
            "mrsigner": "AA" * 32,
            "isvprodid": 1,
            "tcbLevels": [{"tcb": {"isvsvn": 4}, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": "UpToDate"}],
        }
        return signed(inspect.IDENTITY, value)

    def pck_crl(self, ca: Ca) -> Crl:
        self._ask(f"pck_crl {ca}")
        if ca is Ca.PROCESSOR:
            raise CollateralAbsent("pck_crl", "no processor CA here")
        return Crl(make_crl(pki().platform_ca, 1, moment(self.issued), self.lifetime), pki().pck_crl_chain)

    def root_ca_crl(self) -> Crl:
        self._ask("root_ca_crl")
        return Crl(make_crl(pki().root, 1, moment(self.issued), self.lifetime))

    def crl(self, uri: str) -> Crl:
        self._ask(f"crl {uri}")
        return self.root_ca_crl()

    def evaluation_numbers(self, tee: Tee) -> SignedDocument:
        self._ask(f"numbers {tee}")
        value = {"id": tee.upper(), "version": 1, **self._dates(), "tcbEvalNumbers": []}
        return signed(inspect.EVALUATION_NUMBERS, value)

    def pck_certificates(self, platform: PlatformIdentity) -> PckCertificates:
        self._ask("pck_certificates")
        if platform.enc_ppid != PPID and platform.manifest != "BEEF":
            raise CollateralAbsent("pck", "unknown platform")
        return PckCertificates(tuple(self.certificates), self.unavailable, FMSPC, Ca.PLATFORM, pki().pck_crl_chain)


def with_svn(certificate_: PckCertificate, text: str) -> PckCertificate:
    """The certificate under another TCBM."""
    return dataclasses.replace(certificate_, tcbm=text)

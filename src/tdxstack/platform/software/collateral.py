"""Verification collateral of a software platform, in the shapes of Intel's Provisioning Certification Service v4.

TCB info is version 3 for TDX, QE identity version 2 (``TD_QE``); both are signed over the exact bytes of the JSON
body (ECDSA P-256 with SHA-256, 64 raw bytes as hex). Source: Intel SGX and TDX PCS API v4,
``/tdx/certification/v4``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tdxstack.platform.software.pki import CLOCK_SKEW, Pki, make_crl
from tdxstack.platform.software.tcb import FMSPC, PCEID, PlatformTcb, TcbReference

#: Validity of TCB info, QE identity and PCK CRL, as Intel's; the root CRL lives longer.
LIFETIME = timedelta(days=30)
ROOT_CRL_LIFETIME = timedelta(days=365)
#: Made anew when less than this is left.
RENEW_BEFORE = timedelta(days=7)

#: MRSIGNER, MRENCLAVE and product id of the software TD quoting enclave.
QE_MRSIGNER = hashlib.sha256(b"tdxstack software TD-QE signer").digest()
QE_MRENCLAVE = hashlib.sha256(b"tdxstack software TD-QE").digest()
QE_PRODUCT_ID = 2
QE_ATTRIBUTES = bytes.fromhex("1500000000000000e700000000000000")
QE_ATTRIBUTES_VALUE = bytes.fromhex("11000000000000000000000000000000")
QE_ATTRIBUTES_MASK = bytes.fromhex("fbffffffffffffff0000000000000000")

_CATEGORIES: dict[int, dict[str, str]] = {
    0: {"category": "BIOS", "type": "Early Microcode Update"},
    1: {"category": "OS/VMM", "type": "SGX Late Microcode Update"},
    2: {"category": "OS/VMM", "type": "TXT SINIT"},
    3: {"category": "BIOS"},
    4: {"category": "BIOS"},
    5: {"category": "BIOS"},
    7: {"category": "OS/VMM", "type": "SEAMLDR ACM"},
}
_TDX_CATEGORIES: dict[int, dict[str, str]] = {
    0: {"category": "OS/VMM", "type": "TDX Module"},
    1: {"category": "OS/VMM", "type": "TDX Module"},
    2: {"category": "OS/VMM", "type": "TDX Late Microcode Update"},
}


@dataclass(frozen=True, slots=True)
class Collateral:
    """One set. ``tcb_info`` and ``qe_identity`` are the signed bodies as they were signed; CRLs are DER."""

    tcb_info: str
    tcb_info_signature: bytes
    tcb_info_issuer_chain: str
    qe_identity: str
    qe_identity_signature: bytes
    qe_identity_issuer_chain: str
    root_ca_crl: bytes
    pck_crl: bytes
    pck_crl_issuer_chain: str

    def to_json(self) -> dict[str, str]:
        """The JSON shape that DCAP verifiers share: signatures and CRLs are hex."""
        return {
            name: value.hex() if isinstance(value := getattr(self, name), bytes) else value
            for name in (field.name for field in dataclasses.fields(self))
        }

    @classmethod
    def from_json(cls, value: dict[str, str]) -> Collateral:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: a part is missing or is not hex.
        """
        binary = ("tcb_info_signature", "qe_identity_signature", "root_ca_crl", "pck_crl")
        names = [field.name for field in dataclasses.fields(cls)]
        if missing := [name for name in names if name not in value]:
            raise ValueError(f"no {missing[0]}")
        parts: dict[str, Any] = {
            name: bytes.fromhex(value[name]) if name in binary else value[name] for name in names
        }
        return cls(**parts)

    @property
    def tcb_info_document(self) -> str:
        """TCB info as the PCS serves it: ``{"tcbInfo":{...},"signature":"..."}``."""
        return f'{{"tcbInfo":{self.tcb_info},"signature":"{self.tcb_info_signature.hex()}"}}'

    @property
    def qe_identity_document(self) -> str:
        """QE identity as the PCS serves it: ``{"enclaveIdentity":{...},"signature":"..."}``."""
        return f'{{"enclaveIdentity":{self.qe_identity},"signature":"{self.qe_identity_signature.hex()}"}}'

    @property
    def next_update(self) -> datetime:
        """The earliest time at which a signed JSON part ends; CRLs do not end before."""
        ends = [json.loads(body)["nextUpdate"] for body in (self.tcb_info, self.qe_identity)]
        return min(datetime.fromisoformat(end) for end in ends)

    def is_stale(self, now: datetime) -> bool:
        """Whether it should be made anew: less than a week is left."""
        return now + RENEW_BEFORE > self.next_update


def make_collateral(pki: Pki, reference: TcbReference, now: datetime, crl_number: int) -> Collateral:
    """A fresh set, signed by the platform's TCB signing key; valid for 30 days."""
    start = now.astimezone(UTC).replace(microsecond=0) - CLOCK_SKEW
    tcb_info = _compact(_tcb_info(reference, start))
    qe_identity = _compact(_qe_identity(reference, start))
    revoked = [pki.pck.certificate.serial_number] if reference.revoked_pck else []
    return Collateral(
        tcb_info=tcb_info,
        tcb_info_signature=sign_raw(pki.tcb_signing.key, tcb_info.encode()),
        tcb_info_issuer_chain=pki.tcb_signing_chain,
        qe_identity=qe_identity,
        qe_identity_signature=sign_raw(pki.tcb_signing.key, qe_identity.encode()),
        qe_identity_issuer_chain=pki.tcb_signing_chain,
        root_ca_crl=make_crl(pki.root, crl_number, start, ROOT_CRL_LIFETIME),
        pck_crl=make_crl(pki.platform_ca, crl_number, start, LIFETIME, revoked),
        pck_crl_issuer_chain=pki.pck_crl_chain,
    )


def sign_raw(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """ECDSA P-256 with SHA-256 as r || s, 32 bytes each, big-endian."""
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def _compact(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


def _utc(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _components(svns: bytes, categories: dict[int, dict[str, str]]) -> list[dict[str, Any]]:
    return [{"svn": svn, **categories.get(index, {})} for index, svn in enumerate(svns)]


def _level(tcb: PlatformTcb, components: bytes, tdx: bytes) -> dict[str, Any]:
    return {
        "sgxtcbcomponents": _components(components, _CATEGORIES),
        "pcesvn": tcb.pcesvn,
        "tdxtcbcomponents": _components(tdx, _TDX_CATEGORIES),
    }


def _statuses(reference: TcbReference) -> tuple[dict[str, Any], dict[str, Any]]:
    """Status of the newest and of older levels."""
    newest = {"tcbDate": reference.tcb_date, "tcbStatus": "UpToDate"}
    older = {
        "tcbDate": reference.previous_date,
        "tcbStatus": "OutOfDate",
        "advisoryIDs": list(reference.advisories),
    }
    return newest, older


def _tcb_info(reference: TcbReference, start: datetime) -> dict[str, Any]:
    """Two levels, the current TCB and everything older; module levels per major version of the module."""
    tcb = reference.current
    newest, older = _statuses(reference)
    signer = {"mrsigner": bytes(48).hex(), "attributes": bytes(8).hex(), "attributesMask": "FF" * 8}
    levels = [
        {"tcb": _level(tcb, tcb.components, bytes((tcb.module.svn, 0, tcb.microcode_svn)) + bytes(13)), **newest},
        {"tcb": _level(dataclasses.replace(tcb, pcesvn=0), bytes(16), bytes(16)), **older},
    ]
    return {
        "id": "TDX",
        "version": 3,
        "issueDate": _utc(start),
        "nextUpdate": _utc(start + LIFETIME),
        "fmspc": FMSPC.hex().upper(),
        "pceId": PCEID.hex().upper(),
        "tcbType": 0,
        "tcbEvaluationDataNumber": reference.evaluation,
        "tdxModule": signer,
        "tdxModuleIdentities": [
            {
                "id": f"TDX_{major:02X}",
                **signer,
                "tcbLevels": _isv_levels(tcb.module.svn if major == tcb.module.major_svn else 1, newest, older),
            }
            for major in (3, 1)
        ],
        "tcbLevels": levels,
    }


def _qe_identity(reference: TcbReference, start: datetime) -> dict[str, Any]:
    newest, older = _statuses(reference)
    return {
        "id": "TD_QE",
        "version": 2,
        "issueDate": _utc(start),
        "nextUpdate": _utc(start + LIFETIME),
        "tcbEvaluationDataNumber": reference.evaluation,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": QE_ATTRIBUTES_VALUE.hex().upper(),
        "attributesMask": QE_ATTRIBUTES_MASK.hex().upper(),
        "mrsigner": QE_MRSIGNER.hex().upper(),
        "isvprodid": QE_PRODUCT_ID,
        "tcbLevels": _isv_levels(reference.current.qe_svn, newest, older),
    }


def _isv_levels(svn: int, newest: dict[str, Any], older: dict[str, Any]) -> list[dict[str, Any]]:
    """The current ISVSVN and, below it, everything from 1 up."""
    levels = [{"tcb": {"isvsvn": svn}, **newest}]
    if svn > 1:
        levels.append({"tcb": {"isvsvn": 1}, **older})
    return levels

"""Supplemental data: when the collateral was issued and expires, and what certificate and levels say of the platform.

The fields of QVL's ``sgx_ql_qv_supplemental_t``, major version 3, minor version 5 (DCAP 1.27).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tdxstack.dcap.certificate import CertificateFault, certificate_of
from tdxstack.dcap.chain import Chain, chain_of
from tdxstack.dcap.documents import Documents, utf8
from tdxstack.dcap.quote_check import PckChain
from tdxstack.dcap.status import TcbStatus, VerifyFault
from tdxstack.dcap.tcb import TcbVerdict

#: Fields of what the PCK certificate says.
_PLATFORM = (
    "ppid", "cpu_svn", "pce_svn", "pce_id", "fmspc", "sgx_type", "platform_instance_id", "dynamic_platform",
    "cached_keys", "smt_enabled",
)  # fmt: skip
_QE_IDENTITY_ITEMS = ("qe_identity_issuer_chain", "qe_identity")


@dataclass(frozen=True, slots=True)
class Expiry:
    """Validity of one of the eight items, in Unix seconds; of a chain, ``issued`` is that of its oldest certificate
    and ``latest_issued`` that of its newest."""

    item: str
    issued: int
    expires: int
    latest_issued: int


@dataclass(frozen=True, slots=True)
class Supplemental:
    """Supplemental data; times in Unix seconds. What could not be read is None.

    ``tcb_*`` and ``sa_list`` are of the TCB that the TD was started under, ``*_current`` of the one that runs now,
    ``qe_iden_*`` of the quoting enclave's identity and the level that the quoting enclave reaches.
    """

    earliest_issue_date: int
    latest_issue_date: int
    earliest_expiration_date: int
    earliest_expiration_item: str
    tcb_level_date: int | None
    tcb_evaluation_number: int | None
    root_ca_crl_number: int | None
    pck_crl_number: int | None
    root_key_id: str | None
    ppid: str | None
    cpu_svn: str | None
    pce_svn: int | None
    pce_id: str | None
    fmspc: str | None
    tee_type: int | None
    sgx_type: int | None
    platform_instance_id: str | None
    dynamic_platform: bool | None
    cached_keys: bool | None
    smt_enabled: bool | None
    sa_list: tuple[str, ...]
    qe_iden_earliest_issue_date: int
    qe_iden_latest_issue_date: int
    qe_iden_earliest_expiration_date: int
    qe_iden_tcb_level_date: int | None
    qe_iden_tcb_evaluation_number: int | None
    qe_iden_status: TcbStatus | None
    tcb_date_current: int | None
    tcb_status_current: TcbStatus | None
    sa_list_current: tuple[str, ...]


def expiries(documents: Documents, pck: PckChain, pck_crl_issuer_chain: str) -> tuple[Expiry, ...]:
    """Validity of the items (of eight) that could be read; the last is PEM."""
    found = []
    for name, crl in (("root_ca_crl", documents.root_crl), ("pck_crl", documents.pck_crl)):
        if crl is not None:
            found.append(Expiry(name, crl.this_update, crl.next_update, crl.this_update))
    chains = (
        ("pck_crl_issuer_chain", _chain(pck_crl_issuer_chain)),
        ("pck_certificate_chain", pck.chain),
        ("tcb_info_issuer_chain", documents.tcb_chain),
        ("qe_identity_issuer_chain", documents.identity_chain),
    )
    for name, chain in chains:
        if chain is not None:
            starts = [certificate.not_before for certificate in chain.certificates]
            ends = [certificate.not_after for certificate in chain.certificates]
            found.append(Expiry(name, min(starts), min(ends), max(starts)))
    for name, document in (("tcb_info", documents.tcb_info), ("qe_identity", documents.identity)):
        if document is not None:
            found.append(Expiry(name, document.issue_date, document.next_update, document.issue_date))
    return tuple(found)


def _chain(text: str) -> Chain | None:
    try:
        return chain_of(utf8(text)) if text else None
    except (VerifyFault, CertificateFault):
        return None


def supplemental(
    items: tuple[Expiry, ...], documents: Documents, pck: PckChain, verdict: TcbVerdict | None, tee_type: int | None
) -> Supplemental:
    """Supplemental data, of what could be read."""
    first = min(items, key=lambda item: item.expires, default=Expiry("", 0, 0, 0))
    earliest, latest, _ = _dates(items)
    qe_earliest, qe_latest, qe_expires = _dates(item for item in items if item.item in _QE_IDENTITY_ITEMS)
    numbers = [d.evaluation_number for d in (documents.tcb_info, documents.identity) if d is not None]
    root = pck.chain.root if pck.chain else None
    return Supplemental(
        earliest_issue_date=earliest,
        latest_issue_date=latest,
        earliest_expiration_date=first.expires,
        earliest_expiration_item=first.item,
        tcb_level_date=verdict.launch.tcb_date if verdict else None,
        tcb_evaluation_number=min(numbers, default=None),
        root_ca_crl_number=documents.root_crl.number if documents.root_crl else None,
        pck_crl_number=documents.pck_crl.number if documents.pck_crl else None,
        root_key_id=_key_id(root.der) if root else None,
        **_platform(pck),
        tee_type=tee_type,
        sa_list=verdict.launch.advisories if verdict else (),
        qe_iden_earliest_issue_date=qe_earliest,
        qe_iden_latest_issue_date=qe_latest,
        qe_iden_earliest_expiration_date=qe_expires,
        qe_iden_tcb_level_date=verdict.launch.qe.tcb_date if verdict else None,
        qe_iden_tcb_evaluation_number=documents.identity.evaluation_number if documents.identity else None,
        qe_iden_status=verdict.launch.qe.status if verdict else None,
        tcb_date_current=verdict.current.tcb_date if verdict else None,
        tcb_status_current=verdict.current_status if verdict else None,
        sa_list_current=verdict.current.advisories if verdict else (),
    )


def _platform(pck: PckChain) -> dict[str, Any]:
    """What the PCK certificate says."""
    try:
        sgx = pck.leaf.sgx if pck.leaf else None
    except CertificateFault:
        sgx = None
    if sgx is None:
        return dict.fromkeys(_PLATFORM)
    instance = sgx.platform_instance_id
    values = (
        sgx.ppid.hex(),
        sgx.tcb.cpu_svn.hex(),
        sgx.tcb.pce_svn,
        sgx.pce_id.hex(),
        sgx.fmspc.hex(),
        sgx.sgx_type,
        instance.hex() if instance else None,
        sgx.dynamic_platform,
        sgx.cached_keys,
        sgx.smt_enabled,
    )
    return dict(zip(_PLATFORM, values, strict=True))


def _dates(items: Iterable[Expiry]) -> tuple[int, int, int]:
    """Earliest and latest issue, earliest expiration; zeros where nothing could be read."""
    known = list(items)
    return (
        min((item.issued for item in known), default=0),
        max((item.latest_issued for item in known), default=0),
        min((item.expires for item in known), default=0),
    )


@lru_cache(maxsize=64)
def _key_id(der: bytes) -> str | None:
    """SHA-384 over the root's public key as an uncompressed point (``04 || x || y``), as QVL names it."""
    key = certificate_of(der).key
    if key is None:
        return None
    return hashlib.sha384(key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)).hexdigest()

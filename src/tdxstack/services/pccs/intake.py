"""Collateral that an administrator brings (``PUT /platformcollateral``), in the form of Intel's admin tool.

``{"platforms": [...], "collaterals": {"version", "pck_certs", "tcbinfos", "pckcacrl", "qeidentity", "tdqeidentity",
"qveidentity", "certificates", "rootcacrl", "rootcacrl_cdp"}}``. TCB infos come as objects inside the body, so their
text is taken from it as it stands; a tool that wrote them anew with spaces is undone by writing them compactly.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from urllib.parse import unquote

from tdxstack.errors import CollateralError
from tdxstack.pcs.source import Ca, Crl, Enclave, PckCertificate, SignedDocument, Tee
from tdxstack.services.pccs import body
from tdxstack.services.pccs.admission import API_V3, API_V4, Admission, parse_tcb_info
from tdxstack.services.pccs.body import Members, bad
from tdxstack.services.pccs.platforms import choose
from tdxstack.services.pccs.records import Document, Platform, PlatformRecord, RawTcb
from tdxstack.services.pccs.refusal import Refusal, Status
from tdxstack.services.pccs.schema import Kind
from tdxstack.services.pccs.selection import SelectionFault, extension_of
from tdxstack.services.pccs.store import Store

MAX_PLATFORMS = 10_000
MAX_CERTIFICATES = 256
MAX_TCB_INFOS = 256

QE_ID = re.compile(r"[!-~]{1,260}")
HEX2 = re.compile(r"[0-9A-Fa-f]{4}")
HEX16 = re.compile(r"[0-9A-Fa-f]{32}")
ENC_PPID = re.compile(r"[0-9A-Fa-f]{768}")
FMSPC = re.compile(r"[0-9A-Fa-f]{12}")
MANIFEST = re.compile(r"[0-9A-Za-z+/=]{0,131072}")
_TCBM = re.compile(r"[0-9A-Fa-f]{36}")
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})*")

_PCK_CHAIN = "SGX-PCK-Certificate-Issuer-Chain"
_IDENTITY_CHAIN = "SGX-Enclave-Identity-Issuer-Chain"
_TCB_CHAINS = ("TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain")
#: In the order in which they are looked at for choosing a PCK certificate.
_TCB_MEMBERS = {
    API_V3: (("tcbinfo_early", Tee.SGX, "early"), ("tcbinfo", Tee.SGX, "standard")),
    API_V4: (
        ("sgx_tcbinfo_early", Tee.SGX, "early"),
        ("sgx_tcbinfo", Tee.SGX, "standard"),
        ("tdx_tcbinfo_early", Tee.TDX, "early"),
        ("tdx_tcbinfo", Tee.TDX, "standard"),
    ),
}
_IDENTITIES = tuple(
    (f"{name}{suffix}", enclave, evaluation)
    for name, enclave in (("qeidentity", Enclave.QE), ("tdqeidentity", Enclave.TD_QE), ("qveidentity", Enclave.QVE))
    for suffix, evaluation in (("", "standard"), ("_early", "early"))
)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Brought:
    """What a body holds, checked."""

    platforms: list[PlatformRecord]
    documents: list[Document]


def _checked(check: Callable[[], T]) -> T:
    """Call ``check``; what does not hold is an integrity error (460)."""
    try:
        return check()
    except CollateralError as error:
        raise Refusal(Status.INTEGRITY_ERROR, error.message) from error


class Intake:
    """Reads one body. Raises Refusal: 400 for its form, 460 for what is not signed under a trusted root."""

    def __init__(self, data: bytes, version: int, admission: Admission, store: Store) -> None:
        self._version = version
        self._admission = admission
        self._store = store
        document, self._text = body.load(data)
        self._platforms = body.array_of(document, "platforms", MAX_PLATFORMS)
        self._collaterals = body.object_of(document, "collaterals")
        self._certificates = body.object_of(self._collaterals, "certificates")

    def read(self) -> Brought:
        """Check everything."""
        for entry in self._platforms:
            check_platform(entry, empty=True)
        tcb_infos = self._tcb_infos()
        documents = [*tcb_infos, *self._identities(), *self._pck_crls(), *self._root_crl()]
        entries = body.array_of(self._collaterals, "pck_certs", MAX_PLATFORMS)
        platforms = [record for entry in entries for record in self._platform(entry, tcb_infos)]
        return Brought(platforms, documents)

    def _chain(self, *names: str) -> str:
        for name in names:
            if self._certificates.get(name) is not None:
                return unquote(body.text_of(self._certificates, name))
        raise bad(f"certificates: no {names[0]}.")

    def _pck_chain(self, ca: Ca) -> str:
        chains = body.object_of(self._certificates, _PCK_CHAIN)
        return unquote(body.text_of(chains, ca.value.upper()))

    def _tcb_infos(self) -> list[Document]:
        found = []
        for index, entry in enumerate(body.array_of(self._collaterals, "tcbinfos", MAX_TCB_INFOS)):
            fmspc = body.text_of(entry, "fmspc", FMSPC).upper()
            for name, tee, evaluation in _TCB_MEMBERS[self._version]:
                if entry.get(name) is not None:
                    body.object_of(entry, name)
                    raw = body.text_at(self._text, "collaterals", "tcbinfos", index, name)
                    found.append(self._tcb_info(raw, entry[name], (tee, fmspc, evaluation)))
        return found

    def _tcb_info(self, raw: str, value: Members, key: tuple[Tee, str, str]) -> Document:
        tee, fmspc, evaluation = key
        chain = self._chain(*_TCB_CHAINS)

        def admit(text: str) -> Document:
            signed = SignedDocument(text.encode(), chain)
            return self._admission.tcb(signed, tee, fmspc, evaluation, self._version)

        try:
            return admit(raw)
        except CollateralError:
            compact = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        return _checked(lambda: admit(compact))

    def _identities(self) -> list[Document]:
        found = []
        for name, enclave, evaluation in _IDENTITIES:
            if text := body.text_of(self._collaterals, name, default=""):
                signed = SignedDocument(text.encode(), self._chain(_IDENTITY_CHAIN))
                admit = partial(self._admission.identity, signed, enclave, evaluation, self._version)
                found.append(_checked(admit))
        return found

    def _pck_crls(self) -> list[Document]:
        if self._collaterals.get("pckcacrl") is None:
            return []
        crls = body.object_of(self._collaterals, "pckcacrl")
        found = []
        for ca in Ca:
            if text := body.text_of(crls, f"{ca.value}Crl", _HEX, default=""):
                crl = Crl(bytes.fromhex(text), self._pck_chain(ca))
                found.append(_checked(partial(self._admission.pck_crl, crl, ca)))
        return found

    def _root_crl(self) -> list[Document]:
        text = body.text_of(self._collaterals, "rootcacrl", _HEX, default="")
        if not text:
            return []
        crl = Crl(bytes.fromhex(text))
        found = [_checked(lambda: self._admission.root_crl(crl))]
        if uri := body.text_of(self._collaterals, "rootcacrl_cdp", re.compile(r"[!-~]{0,2048}"), default=""):
            found.append(_checked(lambda: self._admission.crl(crl, uri)))
        return found

    def _platform(self, entry: Members, tcb_infos: list[Document]) -> list[PlatformRecord]:
        qe_id = body.text_of(entry, "qe_id", QE_ID).upper()
        pce_id = body.text_of(entry, "pce_id", HEX2).upper()
        certificates, unavailable = _pck_certificates(entry)
        try:
            extension = extension_of(certificates[0].pem)
        except SelectionFault as fault:
            raise bad(f"{fault}.") from None
        fmspc = extension.fmspc.hex().upper()
        ca = Ca.PLATFORM if extension.platform_instance_id is not None else Ca.PROCESSOR
        chain = self._pck_chain(ca)
        _checked(lambda: self._admission.pck_certificates(certificates, chain, fmspc, ca))
        info = next((one for one in tcb_infos if one.kind is Kind.TCB and one.name.endswith(f"/{fmspc}")), None)
        if info is None:
            raise bad(f"tcbinfos: none for FMSPC {fmspc}.")
        mine = [one for one in self._platforms if _is(one, qe_id, pce_id)]
        raws = set(self._store.raw_tcbs(qe_id, pce_id)) | {raw for one in mine if (raw := _raw(one))}
        parsed = parse_tcb_info(info.body)
        selected = {raw: choose(raw, certificates, unavailable, parsed, pce_id).tcbm for raw in raws}
        named = mine[-1] if mine else {}
        kept = self._store.platform(qe_id, pce_id)
        platform = Platform(
            qe_id,
            pce_id,
            body.text_of(named, "platform_manifest", MANIFEST, default=kept.platform_manifest if kept else ""),
            body.text_of(named, "enc_ppid", default=kept.enc_ppid if kept else "").upper(),
            fmspc,
            ca,
        )
        return [PlatformRecord(platform, certificates, unavailable, chain, selected)]


def _pck_certificates(entry: Members) -> tuple[list[PckCertificate], list[str]]:
    certificates: list[PckCertificate] = []
    unavailable: list[str] = []
    for one in body.array_of(entry, "certs", MAX_CERTIFICATES):
        tcbm = body.text_of(one, "tcbm", _TCBM).upper()
        text = body.text_of(one, "cert")
        if text == "Not available":
            unavailable.append(tcbm)
        else:
            certificates.append(PckCertificate(tcbm, unquote(text)))
    if not certificates:
        raise bad("certs: no PCK certificate.")
    return certificates, unavailable


def _is(entry: Members, qe_id: str, pce_id: str) -> bool:
    return str(entry["qe_id"]).upper() == qe_id and str(entry["pce_id"]).upper() == pce_id


def _raw(entry: Members) -> RawTcb | None:
    if entry.get("cpu_svn") and entry.get("pce_svn"):
        return RawTcb(entry["cpu_svn"].upper(), entry["pce_svn"].upper())
    return None


def check_platform(entry: Members, *, empty: bool = False) -> dict[str, str]:
    """The fields of a platform as it registers (Intel's ``PLATFORM_REG`` schema). Raises Refusal (400).

    Args:
        empty: whether the raw TCB and the PPID may be empty texts.
    """
    fields: dict[str, Any] = {
        "qe_id": body.text_of(entry, "qe_id", QE_ID).upper(),
        "pce_id": body.text_of(entry, "pce_id", HEX2).upper(),
        "platform_manifest": body.text_of(entry, "platform_manifest", MANIFEST, default=""),
    }
    for name, pattern in (("cpu_svn", HEX16), ("pce_svn", HEX2), ("enc_ppid", ENC_PPID)):
        value = "" if empty and entry.get(name) == "" else body.text_of(entry, name, pattern, default="")
        fields[name] = value.upper()
    return fields

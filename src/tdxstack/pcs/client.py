"""Client of Intel's Provisioning Certification Service (PCS), API v4, and of any caching service (PCCS) before it.

Intel "SGX and TDX Provisioning Certification Service" API v4; where a PCCS differs (root CA CRL, hexadecimal CRLs, no
``pckcerts``) Intel's "Provisioning Certificate Caching Service" design guide.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any
from urllib.parse import unquote, urlsplit

from tdxstack.errors import CollateralAbsent, CollateralUnreachable, UsageError
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
from tdxstack.pcs.transport import Answer, Request, Transport, TransportOptions

INTEL_PCS = "https://api.trustedservices.intel.com"
INTEL_ROOT_CRL = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"

_FMSPC = re.compile(r"[0-9A-Fa-f]{12}\Z")
_HEX = re.compile(rb"[0-9A-Fa-f\s]+\Z")
_TCBM = re.compile(r"[0-9A-Fa-f]{36}\Z")
_KEY_HEADER = "ocp-apim-subscription-key"
_JSON = {"content-type": "application/json"}
#: A platform has one certificate for each TCB level it may be at; Intel has served about a dozen.
MAX_CERTIFICATES = 256


class Dialect(StrEnum):
    """Whether the service is Intel's own or a caching service."""

    PCS = "pcs"
    PCCS = "pccs"

    @classmethod
    def of(cls, url: str) -> Dialect:
        """By the host's name: Intel's hosts speak PCS."""
        host = urlsplit(url).hostname or ""
        return cls.PCS if host.endswith("trustedservices.intel.com") else cls.PCCS


def check_fmspc(fmspc: str) -> str:
    """``fmspc`` in upper case. Raises UsageError if it is not 12 hexadecimal digits."""
    if not _FMSPC.match(fmspc):
        raise UsageError(f"{fmspc!r}: no FMSPC", hint="an FMSPC is 12 hexadecimal digits, such as 00806F050000")
    return fmspc.upper()


class PcsClient:
    """A :class:`~tdxstack.pcs.source.Source` over HTTP. Thread-safe.

    Args:
        url: root of the service, ``https://host[:port]``, with or without ``/sgx/certification/v4``.
        api_key: subscription key of Intel's PCS, which it asks for PCK certificates.
        user_token: a PCCS asks it for registrations.
    """

    def __init__(
        self,
        url: str = INTEL_PCS,
        *,
        dialect: Dialect | None = None,
        api_key: str | None = None,
        user_token: str | None = None,
        options: TransportOptions | None = None,
        transport: Transport | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("https", "http") or not parts.hostname:
            raise UsageError(f"{url!r}: no URL of a service", hint=f"give one such as {INTEL_PCS}")
        self.base = re.sub(r"/(sgx|tdx)/certification/v[34]/?$", "", url.rstrip("/"))
        self.dialect = dialect or Dialect.of(url)
        self._api_key = api_key
        self._user_token = user_token
        self._transport = transport or Transport(options)

    @property
    def name(self) -> str:
        return self.base

    def close(self) -> None:
        self._transport.close()

    def tcb_info(self, tee: Tee, fmspc: str, evaluation: EvaluationSet = STANDARD) -> SignedDocument:
        query = {"fmspc": check_fmspc(fmspc), **evaluation.query}
        answer = self._get(tee, "tcb", f"TCB info of {fmspc} ({tee}, {evaluation})", query)
        chain = _chain(answer, "TCB info", "tcb-info-issuer-chain", "sgx-tcb-info-issuer-chain")
        return SignedDocument(answer.body, chain)

    def identity(self, enclave: Enclave, evaluation: EvaluationSet = STANDARD) -> SignedDocument:
        item = f"identity of {enclave} ({evaluation})"
        answer = self._get(enclave.tee, enclave.path, item, evaluation.query)
        return SignedDocument(answer.body, _chain(answer, item, "sgx-enclave-identity-issuer-chain"))

    def pck_crl(self, ca: Ca) -> Crl:
        item = f"PCK CRL of the {ca} CA"
        answer = self._get(Tee.SGX, "pckcrl", item, {"ca": ca.value, "encoding": "der"})
        return Crl(_der(answer.body, item), _chain(answer, item, "sgx-pck-crl-issuer-chain"))

    def root_ca_crl(self) -> Crl:
        item = "root CA CRL"
        if self.dialect is Dialect.PCS:
            return self.crl(INTEL_ROOT_CRL)
        return Crl(_der(self._get(Tee.SGX, "rootcacrl", item).body, item))

    def crl(self, uri: str) -> Crl:
        if self.dialect is Dialect.PCS:
            return Crl(_der(self._transport.send(Request("GET", uri, f"CRL {uri}")).body, uri))
        return Crl(_der(self._get(Tee.SGX, "crl", f"CRL {uri}", {"uri": uri}).body, uri))

    def evaluation_numbers(self, tee: Tee) -> SignedDocument:
        item = f"TCB evaluation data numbers ({tee})"
        answer = self._get(tee, "tcbevaluationdatanumbers", item)
        return SignedDocument(answer.body, _chain(answer, item, "tcb-evaluation-data-numbers-issuer-chain"))

    def fmspcs(self) -> list[dict[str, str]]:
        """The FMSPCs that Intel's PCS knows, each with ``fmspc`` and ``platform``."""
        item = "list of FMSPCs"
        found = _json(self._get(Tee.SGX, "fmspcs", item).body, item)
        if not isinstance(found, list):
            raise CollateralUnreachable(item, f"{item}: {self.base} answered with no list")
        return [{str(k): str(v) for k, v in entry.items()} for entry in found if isinstance(entry, dict)]

    def pck_certificates(self, platform: PlatformIdentity) -> PckCertificates:
        item = "PCK certificates"
        url = self._url(Tee.SGX, "pckcerts")
        headers = {_KEY_HEADER: self._api_key} if self._api_key else {}
        if platform.manifest:
            body = json.dumps({"platformManifest": platform.manifest, "pceid": platform.pce_id}).encode()
            request = Request("POST", url, item, {}, {**headers, **_JSON}, body)
        else:
            query = {"encrypted_ppid": platform.enc_ppid, "pceid": platform.pce_id}
            request = Request("GET", url, item, query, headers)
        return _pck_certificates(self._transport.send(request), item)

    def register(self, body: Mapping[str, str], *, evaluation: str = "standard") -> None:
        """Register a platform with a PCCS (``POST /platforms``)."""
        headers = {**_JSON, "user-token": self._user_token or ""}
        url = self._url(Tee.SGX, "platforms")
        content = json.dumps(dict(body)).encode()
        self._transport.send(Request("POST", url, "registration", {"update": evaluation}, headers, content))

    def _get(self, tee: Tee, path: str, item: str, query: Mapping[str, str] | None = None) -> Answer:
        return self._transport.send(Request("GET", self._url(tee, path), item, query or {}))

    def _url(self, tee: Tee, path: str) -> str:
        return f"{self.base}/{tee}/certification/v4/{path}"


def _chain(answer: Answer, item: str, *names: str) -> str:
    for name in names:
        if value := answer.headers.get(name):
            return unquote(value)
    raise CollateralUnreachable(item, f"{item}: the answer has no {names[0]} header", hint="is that a PCS or PCCS?")


def _der(body: bytes, item: str) -> bytes:
    """DER of a CRL that may have come as DER, as hexadecimal digits (PCCS), or as PEM."""
    if body[:1] == b"\x30":
        return body
    if _HEX.match(body):
        try:
            return bytes.fromhex(body.decode("ascii"))
        except ValueError:
            pass
    if b"-----BEGIN X509 CRL-----" in body:
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import Encoding

        try:
            return x509.load_pem_x509_crl(body).public_bytes(Encoding.DER)
        except ValueError:
            pass
    raise CollateralUnreachable(item, f"{item}: the answer is no revocation list", hint="is that a PCS or PCCS?")


def _json(body: bytes, item: str) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise CollateralUnreachable(item, f"{item}: the answer is not JSON", hint="is that a PCS or PCCS?") from None


def _pck_certificates(answer: Answer, item: str) -> PckCertificates:
    """``[{"tcb": {...}, "tcbm": "...", "cert": "..."}, ...]``, certificates percent-encoded."""
    entries = _json(answer.body, item)
    if not isinstance(entries, list) or len(entries) > MAX_CERTIFICATES:
        raise CollateralUnreachable(item, f"{item}: the answer is no list of up to {MAX_CERTIFICATES}")
    found: list[PckCertificate] = []
    unavailable: list[str] = []
    for entry in entries:
        tcbm, text = (entry.get("tcbm"), entry.get("cert")) if isinstance(entry, dict) else (None, None)
        if not isinstance(tcbm, str) or not isinstance(text, str) or not _TCBM.match(tcbm):
            raise CollateralUnreachable(item, f"{item}: an entry has no tcbm and cert")
        if text == "Not available":
            unavailable.append(tcbm.upper())
        else:
            found.append(PckCertificate(tcbm.upper(), unquote(text)))
    fmspc = answer.headers.get("sgx-fmspc", "")
    ca = answer.headers.get("sgx-pck-certificate-ca-type", "").lower()
    if not _FMSPC.match(fmspc) or ca not in list(Ca):
        raise CollateralUnreachable(item, f"{item}: the answer names no FMSPC or no CA type")
    if not found and not unavailable:
        raise CollateralAbsent(item, f"{item}: the service has none for this platform")
    chain = _chain(answer, item, "sgx-pck-certificate-issuer-chain", "pcs-certificate-issuer-chain")
    return PckCertificates(tuple(found), tuple(unavailable), fmspc.upper(), Ca(ca), chain)

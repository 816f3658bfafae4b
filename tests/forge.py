"""Evidence made to order: a quote with its collateral under a PKI of its own, each part of it as a test wants it.

A :class:`Forge` starts as evidence that verifies; a test changes its parts (names, dates, extensions, JSON members,
fields of the quote) and :meth:`Forge.build` signs everything anew, so that only the change is wrong. ``patches`` act
on finished parts, after they were signed.
"""

from __future__ import annotations

import copy
import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID, ObjectIdentifier

from tdxstack.dcap import Collateral
from tdxstack.platform.software.collateral import sign_raw
from tdxstack.platform.software.sgx_extension import SGX_EXTENSION_OID, SgxExtension
from tdxstack.wire.quote import INTEL_QE_VENDOR_ID

#: When forged evidence is valid: documents and CRLs from START to END (Unix seconds), certificates longer.
START, NOW, END = 1_780_000_000, 1_781_000_000, 1_782_500_000
_CERTIFICATES_START, _CERTIFICATES_END = 1_600_000_000, 1_900_000_000
FMSPC, PCE_ID = "90c06f000000", "0000"
COMPONENTS, PCE_SVN = bytes([3, 3, 2, 2, 4, 1, 0, 5]) + bytes(8), 13
MODULE_SIGNER = "11" * 48
QE_SIGNER = "dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5"

EXTENSIONS = {
    "aki": x509.AuthorityKeyIdentifier.oid,
    "cdp": x509.CRLDistributionPoints.oid,
    "ski": x509.SubjectKeyIdentifier.oid,
    "usage": x509.KeyUsage.oid,
    "constraints": x509.BasicConstraints.oid,
    "sgx": ObjectIdentifier(SGX_EXTENSION_OID),
}
Bytes = Callable[[bytes], bytes]
QE_AUTH = bytes(range(32))


@cache
def key(name: str) -> ec.EllipticCurvePrivateKey:
    """The private key of that name, the same in one run. Names that start with ``p384`` have another curve."""
    made = ec.generate_private_key(ec.SECP384R1() if name.startswith("p384") else ec.SECP256R1())
    if name == "attestation":
        # A byte that a case places in the key's hash must be another one than is there by chance.
        while {*(digest := hashlib.sha256(_raw(made) + QE_AUTH).digest())[:1], digest[-1]} & {0, 1, 2, 3, 255}:
            made = ec.generate_private_key(ec.SECP256R1())
    return made


@dataclass
class Cert:
    """A certificate; ``subject`` and ``issuer`` are common names, ``key`` and ``signer`` names of keys."""

    subject: str
    issuer: str
    key: str
    signer: str
    serial: int
    not_before: int = _CERTIFICATES_START
    not_after: int = _CERTIFICATES_END
    without: set[str] = field(default_factory=set)
    sgx: bytes | None = None
    country: str = "US"
    hash: hashes.SHA256 | hashes.SHA384 = field(default_factory=hashes.SHA256)
    patch: Bytes | None = None

    def der(self) -> bytes:
        """The certificate, signed."""
        public = key(self.key).public_key()
        authority = x509.SubjectKeyIdentifier.from_public_key(key(self.signer).public_key())
        point = x509.DistributionPoint([x509.UniformResourceIdentifier("https://x.invalid/crl")], None, None, None)
        extensions: list[tuple[str, x509.ExtensionType, bool]] = [
            ("aki", x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority), False),
            ("cdp", x509.CRLDistributionPoints([point]), False),
            ("ski", x509.SubjectKeyIdentifier.from_public_key(public), False),
            ("usage", x509.KeyUsage(True, *[False] * 8), True),
            ("constraints", x509.BasicConstraints(False, None), True),
        ]
        if self.sgx is not None:
            extensions.append(("sgx", x509.UnrecognizedExtension(EXTENSIONS["sgx"], self.sgx), False))
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(self.subject, self.country))
            .issuer_name(_name(self.issuer, self.country))
            .public_key(public)
            .serial_number(self.serial)
            .not_valid_before(_date(self.not_before))
            .not_valid_after(_date(self.not_after))
        )
        for name, extension, critical in extensions:
            if name not in self.without:
                builder = builder.add_extension(extension, critical)
        der = _signed_once(builder, self)
        return self.patch(der) if self.patch else der

    def pem(self) -> str:
        """The same in PEM."""
        return pem(self.der())


@dataclass
class Crl:
    """A CRL in hexadecimal DER, or in PEM."""

    issuer: str
    signer: str
    revoked: list[int] = field(default_factory=list)
    this_update: int = START
    next_update: int = END
    without: set[str] = field(default_factory=set)
    as_pem: bool = False
    country: str = "US"
    number: int = 1

    def text(self) -> str:
        """The CRL, signed."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(_name(self.issuer, self.country))
            .last_update(_date(self.this_update))
            .next_update(_date(self.next_update))
        )
        if "number" not in self.without:
            builder = builder.add_extension(x509.CRLNumber(self.number), False)
        if "aki" not in self.without:
            identifier = x509.SubjectKeyIdentifier.from_public_key(key(self.signer).public_key())
            aki = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
            builder = builder.add_extension(aki, False)
        for serial in self.revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(_date(self.this_update))
            builder = builder.add_revoked_certificate(entry.build())
        crl = _CRLS.get(what := repr(self))
        if crl is None:
            crl = _CRLS[what] = builder.sign(key(self.signer), hashes.SHA256())
        if self.as_pem:
            return crl.public_bytes(serialization.Encoding.PEM).decode()
        return crl.public_bytes(serialization.Encoding.DER).hex()


def sgx_extension(**changes: Any) -> SgxExtension:
    """The PCK certificate's SGX extension, with changes."""
    fields: dict[str, Any] = {
        "ppid": bytes(range(16)),
        "components": COMPONENTS,
        "pcesvn": PCE_SVN,
        "cpusvn": COMPONENTS,
        "pceid": bytes.fromhex(PCE_ID),
        "fmspc": bytes.fromhex(FMSPC),
        "platform_instance_id": bytes(16),
    }
    return SgxExtension(**(fields | changes))


def iso(seconds: int) -> str:
    """The form of dates in collateral."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _level(svns: bytes, pce: int, tdx: bytes, status: str, **more: Any) -> dict[str, Any]:
    tcb = {
        "sgxtcbcomponents": [{"svn": svn} for svn in svns],
        "pcesvn": pce,
        "tdxtcbcomponents": [{"svn": svn} for svn in tdx],
    }
    return {"tcb": tcb, "tcbDate": "2025-11-12T00:00:00Z", "tcbStatus": status, **more}


def isv_level(svn: int, status: str = "UpToDate") -> dict[str, Any]:
    """A level of the module or of the quoting enclave."""
    return {"tcb": {"isvsvn": svn}, "tcbDate": "2025-11-12T00:00:00Z", "tcbStatus": status}


def tcb_info() -> dict[str, Any]:
    """TCB info for TDX; the platform and module of the forge are up to date by it."""
    signer = {"mrsigner": MODULE_SIGNER, "attributes": "00" * 8, "attributesMask": "ff" * 8}
    tdx = bytes([6, 0, 3]) + bytes(13)
    return {
        "id": "TDX", "version": 3, "issueDate": iso(START), "nextUpdate": iso(END), "fmspc": FMSPC, "pceId": PCE_ID,
        "tcbType": 0, "tcbEvaluationDataNumber": 19, "tdxModule": dict(signer),
        "tdxModuleIdentities": [
            {"id": "TDX_03", **signer, "tcbLevels": [isv_level(4), isv_level(1, "OutOfDate")]},
            {"id": "TDX_01", **signer, "tcbLevels": [isv_level(6), isv_level(2, "OutOfDate")]},
        ],
        "tcbLevels": [
            _level(COMPONENTS, PCE_SVN, tdx, "UpToDate"),
            _level(COMPONENTS, 5, tdx, "OutOfDate", advisoryIDs=["INTEL-SA-00001"]),
            _level(bytes(16), 1, bytes(16), "OutOfDate", advisoryIDs=["INTEL-SA-00002"]),
        ],
    }  # fmt: skip


def sgx_tcb_info(version: int = 3) -> dict[str, Any]:
    """TCB info for SGX; version 2 is what PCS API v3 served."""
    info = tcb_info()
    for name in ("tdxModule", "tdxModuleIdentities"):
        del info[name]
    for level in info["tcbLevels"]:
        del level["tcb"]["tdxtcbcomponents"]
        if version == 2:
            svns = level["tcb"].pop("sgxtcbcomponents")
            level["tcb"] |= {f"sgxtcbcomp{i + 1:02}svn": item["svn"] for i, item in enumerate(svns)}
    info["version"], info["id"] = version, "SGX"
    if version == 2:
        del info["id"]
    return info


def qe_identity() -> dict[str, Any]:
    """The identity of the forge's quoting enclave."""
    return {
        "id": "TD_QE", "version": 2, "issueDate": iso(START), "nextUpdate": iso(END), "tcbEvaluationDataNumber": 19,
        "miscselect": "00000000", "miscselectMask": "FFFFFFFF", "attributes": "11" + "00" * 15,
        "attributesMask": "FB" + "FF" * 7 + "00" * 8, "mrsigner": QE_SIGNER, "isvprodid": 2,
        "tcbLevels": [isv_level(4), isv_level(2, "OutOfDate")],
    }  # fmt: skip


@dataclass
class Forge:
    """The parts. Quote fields are bytes by name, put into the body and the QE report at their offsets."""

    root: Cert = field(default_factory=lambda: Cert("Intel SGX Root CA", "Intel SGX Root CA", "root", "root", 1))
    ca: Cert = field(
        default_factory=lambda: Cert("Intel SGX PCK Platform CA", "Intel SGX Root CA", "ca", "root", 0x1001)
    )
    pck: Cert = field(
        default_factory=lambda: Cert(
            "Intel SGX PCK Certificate", "Intel SGX PCK Platform CA", "pck", "ca", 0x2001,
            sgx=sgx_extension().to_bytes(),
        )
    )  # fmt: skip
    signing: Cert = field(
        default_factory=lambda: Cert("Intel SGX TCB Signing", "Intel SGX Root CA", "signing", "root", 0x3001)
    )
    root_crl: Crl = field(default_factory=lambda: Crl("Intel SGX Root CA", "root"))
    pck_crl: Crl = field(default_factory=lambda: Crl("Intel SGX PCK Platform CA", "ca"))
    info: dict[str, Any] = field(default_factory=tcb_info)
    identity: dict[str, Any] = field(default_factory=qe_identity)
    chain: list[str] = field(default_factory=lambda: ["pck", "ca", "root"])
    signing_chain: list[str] = field(default_factory=lambda: ["signing", "root"])
    version: int = 5
    body_type: int = 3
    tee_type: int = 0x81
    header: dict[int, bytes] = field(default_factory=dict)
    body: dict[int, bytes] = field(default_factory=dict)
    qe_report: dict[int, bytes] = field(default_factory=dict)
    qe_auth: bytes = QE_AUTH
    outer_type: int = 6
    certification: tuple[int, bytes | None] = (5, None)
    trailing: bytes = b""
    #: On finished parts: quote, body_size, tcb_info, qe_identity (texts), qe_signature, quote_signature, ...
    patches: dict[str, Callable[[Any], Any]] = field(default_factory=dict)

    def sgx(self, version: int = 3, info_version: int = 3) -> Forge:
        """The same for an SGX enclave."""
        self.version, self.body_type, self.tee_type = version, 1, 0
        self.info = sgx_tcb_info(info_version)
        self.identity["id"] = "QE"
        return self

    def copy(self) -> Forge:
        """Another one that may be changed by itself."""
        return copy.deepcopy(self)

    def pem_of(self, names: list[str]) -> str:
        """The certificates in PEM, in that order."""
        return "".join(getattr(self, name).pem() for name in names)

    def build(self) -> tuple[bytes, Collateral, bytes]:
        """Quote, collateral, and the root's DER. The root is that of the unchanged forge."""
        chain = self._patched("chain", self.pem_of(self.chain))
        signing = self._patched("signing_chain", self.pem_of(self.signing_chain))
        info = self._patched("tcb_info", json.dumps(self.info, separators=(",", ":")))
        identity = self._patched("qe_identity", json.dumps(self.identity, separators=(",", ":")))
        collateral = Collateral(
            tcb_info=info,
            tcb_info_signature=self._patched("tcb_info_signature", self._sign("signing", _utf8(info)).hex()),
            tcb_info_issuer_chain=signing,
            qe_identity=identity,
            qe_identity_signature=self._patched(
                "qe_identity_signature", self._sign("signing", _utf8(identity)).hex()
            ),
            qe_identity_issuer_chain=self._patched("identity_chain", signing),
            root_ca_crl=self._patched("root_ca_crl", self.root_crl.text()),
            pck_crl=self._patched("pck_crl", self.pck_crl.text()),
            pck_crl_issuer_chain=self.pem_of(["ca", "root"]),
        )
        return self._quote(chain), collateral, trusted_root()

    def _quote(self, chain: str) -> bytes:
        header = _placed(
            struct.pack("<HHIHH", self.version, 2, self.tee_type, 0, 0) + INTEL_QE_VENDOR_ID + bytes(20), self.header
        )
        body = _placed(self._plain_body(), self.body)
        descriptor = struct.pack("<HI", self.body_type, len(body)) if self.version == 5 else b""
        signed = self._patched("signed", header + descriptor + body)
        attestation = self._patched("attestation_key", _raw_key("attestation"))
        report = self._plain_qe_report()
        report[320:352] = hashlib.sha256(attestation + self.qe_auth).digest()
        report_bytes = _placed(bytes(report), self.qe_report)
        kind, data = self.certification
        data = chain.encode("utf-8", "surrogateescape") + b"\0" if data is None else data
        qe = report_bytes + self._patched("qe_signature", self._sign("pck", report_bytes))
        qe += struct.pack("<H", len(self.qe_auth)) + self.qe_auth + struct.pack("<HI", kind, len(data)) + data
        qe = self._patched("qe_certification", qe)
        if self.version != 3:
            qe = struct.pack("<HI", self.outer_type, len(qe)) + qe
        auth = self._patched("quote_signature", sign_raw(key("attestation"), signed)) + attestation + qe
        quote = signed + struct.pack("<I", self._patched("auth_size", len(auth))) + auth + self.trailing
        return bytes(self._patched("quote", quote))

    def _plain_body(self) -> bytes:
        size = {1: 384, 2: 584, 3: 648, 4: 885}.get(self.body_type, 648)
        if self.tee_type == 0 and self.version != 5:
            size = 384
        elif self.version != 5:
            size = 584
        if size == 384:
            return _placed(bytes(384), {48: b"\x05", 128: b"\x77" * 32, 320: b"report data"})
        svn = bytes([6, 1, 3]) + bytes(13)
        fields = {
            0: svn, 64: bytes.fromhex(MODULE_SIGNER), 120: bytes([0, 0, 0, 0x10]), 128: bytes([0xE7, 2, 6]),
            136: b"\x22" * 48, 520: b"report data",
        }  # fmt: skip
        return _placed(bytes(size), fields | ({584: svn} if size > 584 else {}))

    def _plain_qe_report(self) -> bytearray:
        fields = {48: b"\x15", 128: bytes.fromhex(QE_SIGNER), 256: struct.pack("<HH", 2, 4)}
        return bytearray(_placed(bytes(384), fields))

    def _sign(self, cert: str, data: bytes) -> bytes:
        signer = key(getattr(self, cert).key)
        if isinstance(signer.curve, ec.SECP384R1):  # what is signed by such a key is not checkable as P-256
            return bytes(63) + b"\1"
        return sign_raw(signer, data)

    def _patched(self, name: str, value: Any) -> Any:
        return self.patches[name](value) if name in self.patches else value


@cache
def trusted_root() -> bytes:
    """DER of the root that is trusted: the same bytes each time, since a signature is part of what is compared."""
    return Cert("Intel SGX Root CA", "Intel SGX Root CA", "root", "root", 1).der()


def pem(der: bytes) -> str:
    """PEM of a certificate."""
    import base64

    lines = base64.encodebytes(der).decode().replace("\n", "")
    body = "\n".join(lines[at : at + 64] for at in range(0, len(lines), 64))
    return f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"


def _raw_key(name: str) -> bytes:
    return _raw(key(name))


def _raw(private: ec.EllipticCurvePrivateKey) -> bytes:
    numbers = private.public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


def _name(common_name: str, country: str) -> x509.Name:
    attributes = [
        (NameOID.COMMON_NAME, common_name), (NameOID.ORGANIZATION_NAME, "Test"),
        (NameOID.LOCALITY_NAME, "Here"), (NameOID.STATE_OR_PROVINCE_NAME, "CA"), (NameOID.COUNTRY_NAME, country),
    ]  # fmt: skip
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes])


def _signed_once(builder: x509.CertificateBuilder, cert: Cert) -> bytes:
    """ECDSA signatures differ each time; equal certificates should not."""
    what = (
        "|".join(f"{name}={value!r}" for name, value in vars(cert).items() if name not in ("patch", "hash"))
        + cert.hash.name
    )
    if what not in _SIGNED:
        der = builder.sign(key(cert.signer), cert.hash).public_bytes(serialization.Encoding.DER)
        _SIGNED[what] = der
    return _SIGNED[what]


_SIGNED: dict[str, bytes] = {}
_CRLS: dict[str, x509.CertificateRevocationList] = {}


def _date(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _placed(data: bytes, parts: dict[int, bytes]) -> bytes:
    out = bytearray(data)
    for at, part in parts.items():
        out[at : at + len(part)] = part
    return bytes(out)

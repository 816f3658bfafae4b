"""What may enter the database: what is signed under a trusted root, and is what it is said to be.

Expiry keeps nothing out: an OFFLINE service may be filled with old collateral, and whoever verifies with it sees its
date.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tdxstack.dcap.certificate import Certificate, CertificateFault, DistinguishedName, split_pem
from tdxstack.dcap.enclave_identity import EnclaveIdentity
from tdxstack.dcap.signed_json import DocumentFault
from tdxstack.dcap.tcb_info import TcbInfo
from tdxstack.errors import CollateralError
from tdxstack.pcs import inspect
from tdxstack.pcs.source import Ca, Crl, Enclave, PckCertificate, SignedDocument, Tee
from tdxstack.services.pccs.records import Document
from tdxstack.services.pccs.schema import Kind
from tdxstack.services.pccs.selection import SelectionFault, extension_of

API_V3, API_V4 = 3, 4
_ROOT_LIFETIME = 366 * 86400


def tcb_name(tee: Tee, fmspc: str) -> str:
    """The database's name of a TCB info."""
    return f"{tee.value}/{fmspc.upper()}"


def parse_tcb_info(body: bytes) -> TcbInfo:
    """The TCB info of a response.

    Raises:
        CollateralError: it is none.
    """
    found = inspect.facts(SignedDocument(body, ""), inspect.TCB_INFO)
    try:
        return TcbInfo.from_json(found.text)
    except DocumentFault as fault:
        raise CollateralError(inspect.TCB_INFO, f"TCB info: {fault}") from None


class Admission:
    """Makes rows of what comes from outside. Every method raises CollateralError where it does not hold.

    Args:
        roots: DER of the roots under which everything must be signed.
        clock: Unix seconds.
    """

    def __init__(self, roots: frozenset[bytes], clock: Callable[[], float]) -> None:
        self.roots = roots
        self._clock = clock

    def tcb(self, found: SignedDocument, tee: Tee, fmspc: str, evaluation: str, version: int = API_V4) -> Document:
        item = f"TCB info of {fmspc}"
        facts = inspect.require_signed(found, inspect.TCB_INFO, self.roots, item)
        info = parse_tcb_info(found.body)
        if info.fmspc.hex().upper() != fmspc.upper() or info.id.lower() != tee.value:
            raise CollateralError(item, f"{item}: it is for {info.id} {info.fmspc.hex().upper()}")
        if evaluation.isdecimal() and info.evaluation_number != int(evaluation):
            raise CollateralError(item, f"{item}: its evaluation data number is {info.evaluation_number}")
        return self._document(Kind.TCB, tcb_name(tee, fmspc), found, facts.span.end, (version, evaluation))

    def identity(self, found: SignedDocument, enclave: Enclave, evaluation: str, version: int = API_V4) -> Document:
        item = f"identity of {enclave}"
        facts = inspect.require_signed(found, inspect.IDENTITY, self.roots, item)
        try:
            identity = EnclaveIdentity.from_json(facts.text)
        except DocumentFault as fault:
            raise CollateralError(item, f"{item}: {fault}") from None
        if identity.id != enclave.value:
            raise CollateralError(item, f"{item}: it is that of {identity.id}")
        return self._document(Kind.IDENTITY, enclave.value, found, facts.span.end, (version, evaluation))

    def numbers(self, found: SignedDocument, tee: Tee) -> Document:
        item = f"evaluation data numbers of {tee}"
        facts = inspect.require_signed(found, inspect.EVALUATION_NUMBERS, self.roots, item)
        return self._document(Kind.NUMBERS, tee.value, found, facts.span.end, (API_V4, ""))

    def pck_crl(self, crl: Crl, ca: Ca) -> Document:
        item = f"PCK CRL of the {ca} CA"
        inspect.require_trusted(crl.issuer_chain, self.roots, item)
        issuer = inspect.chain(crl.issuer_chain, item)[0]
        if ca.value not in issuer.subject.common_name.lower():
            raise CollateralError(item, f"{item}: it is that of {issuer.subject.common_name!r}")
        parsed = inspect.require_crl_signed(crl, issuer, item)
        found = SignedDocument(crl.der, crl.issuer_chain)
        return self._document(Kind.PCK_CRL, ca.value, found, parsed.next_update, (API_V4, ""))

    def root_crl(self, crl: Crl) -> Document:
        item = "root CA CRL"
        parsed = inspect.require_crl_signed(crl, self._issuer(crl, item), item)
        return self._document(Kind.ROOT_CRL, "root", SignedDocument(crl.der, ""), parsed.next_update, (API_V4, ""))

    def crl(self, crl: Crl, uri: str) -> Document:
        """A CRL of a distribution point. One that a trusted root issued has to be signed by it; the chain of a PCK
        CA's does not come with it, so that one is checked by who verifies with it."""
        item = f"CRL {uri}"
        parsed = inspect.revocation_list(crl, item)
        issuer = self._root_named(parsed.issuer)
        if issuer is not None:
            inspect.require_crl_signed(crl, issuer, item)
        return self._document(Kind.CRL, uri, SignedDocument(crl.der, ""), parsed.next_update, (API_V4, ""))

    def pck_certificates(self, certificates: Sequence[PckCertificate], chain: str, fmspc: str, ca: Ca) -> None:
        """Check certificates against each other, their issuer and what they are said to be for."""
        item = "PCK certificates"
        inspect.require_trusted(chain, self.roots, item)
        issuer = inspect.chain(chain, item)[0]
        if ca.value not in issuer.subject.common_name.lower():
            raise CollateralError(item, f"{item}: issued by {issuer.subject.common_name!r}, not by the {ca} CA")
        for one in certificates:
            try:
                extension = extension_of(one.pem)
                certificate = Certificate(split_pem(one.pem.encode())[0])
            except (SelectionFault, CertificateFault, UnicodeEncodeError) as fault:
                raise CollateralError(item, f"{item}: {fault}") from None
            if not certificate.signed_by(issuer):
                raise CollateralError(item, f"{item}: one is not signed by {issuer.subject.common_name!r}")
            if extension.fmspc.hex().upper() != fmspc.upper():
                raise CollateralError(item, f"{item}: one is for FMSPC {extension.fmspc.hex().upper()}")

    def _issuer(self, crl: Crl, item: str) -> Certificate:
        name = inspect.revocation_list(crl, item).issuer
        root = self._root_named(name)
        if root is None:
            raise CollateralError(item, f"{item}: issued by {name.common_name!r}, which is not a trusted root")
        return root

    def _root_named(self, name: DistinguishedName) -> Certificate | None:
        roots = (Certificate(der) for der in self.roots)
        return next((root for root in roots if root.subject.der == name.der), None)

    def _document(self, kind: Kind, name: str, found: SignedDocument, expires: int, key: tuple[int, str]) -> Document:
        version, evaluation = key
        return Document(kind, version, name, evaluation, found.body, found.issuer_chain, int(self._clock()), expires)

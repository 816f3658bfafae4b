"""Certificates and CRLs that are none: one declared error, whatever is wrong."""

from __future__ import annotations

import pytest

from fuzz.targets import CORPUS
from tdxstack.dcap.certificate import Certificate, CertificateFault, RevocationList, split_pem
from tdxstack.wire.sgx_extension import find_in_certificate


def test_slices_are_those_of_the_library() -> None:
    from cryptography import x509

    for name in ("root", "pck"):
        der = (CORPUS / "certificate" / name).read_bytes()
        ours, theirs = Certificate(der), x509.load_der_x509_certificate(der)
        assert (ours.tbs, ours.signature) == (theirs.tbs_certificate_bytes, theirs.signature)
        assert (ours.subject.der, ours.issuer.der) == (theirs.subject.public_bytes(), theirs.issuer.public_bytes())
    der = (CORPUS / "crl" / "root").read_bytes()
    crl, parsed = RevocationList(der), x509.load_der_x509_crl(der)
    assert (crl.tbs, crl.signature) == (parsed.tbs_certlist_bytes, parsed.signature)
    assert crl.issuer.der == parsed.issuer.public_bytes()


def test_unknown_versions_are_faults() -> None:
    for name, read in (("certificate/root", Certificate), ("crl/root", RevocationList)):
        der = bytearray((CORPUS / name).read_bytes())
        at = der.index(b"\x02\x01") + 2  # the version is the first INTEGER
        der[at] = 34
        with pytest.raises(CertificateFault):
            read(bytes(der))


def test_the_unsigned_algorithm_has_to_be_the_signed_one() -> None:
    der = bytearray((CORPUS / "certificate" / "root").read_bytes())
    root = Certificate(bytes(der))
    assert root.signed_by(root)
    at = der.rindex(bytes.fromhex("06082a8648ce3d040302"))
    der[at + 9] = 3  # ecdsa-with-SHA384
    other = Certificate(bytes(der))
    assert other.tbs == root.tbs
    assert not other.signed_by(root)


def test_negative_serial_numbers_are_no_crash() -> None:
    der = bytearray((CORPUS / "certificate" / "pck").read_bytes())
    at = der.index(b"\x02\x01\x02\x02") + 5  # version 2, then the serial number
    der[at] |= 0x80
    crl = RevocationList.from_text((CORPUS / "crl" / "pck").read_text())
    certificate = Certificate(bytes(der))
    assert certificate.serial < 0
    assert not crl.revokes(certificate)


def test_extension_found_without_a_library() -> None:
    der = (CORPUS / "certificate" / "pck").read_bytes()
    assert find_in_certificate(der) == Certificate(der).sgx
    assert find_in_certificate((CORPUS / "certificate" / "root").read_bytes()) is None


def test_too_many_certificates() -> None:
    one = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    assert len(split_pem(one * 8)) == 8
    with pytest.raises(CertificateFault):
        split_pem(one * 9)

"""Trust anchors: Intel's root, pinned, and roots that the caller names."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tdxstack.dcap.certificate import Certificate, CertificateFault, certificate_of, split_pem
from tdxstack.errors import UsageError

#: "Intel SGX Root CA", valid 2018-05-21 to 2049-12-31, from Intel's provisioning certification service
#: (certificates.trustedservices.intel.com/Intel_SGX_Provisioning_Certification_RootCA.cer).
INTEL_ROOT_DER = base64.b64decode(
    "MIICjzCCAjSgAwIBAgIUImUM1lqdNInzg7SVUr9QGzknBqwwCgYIKoZIzj0EAwIwaDEaMBgGA1UEAwwRSW50ZWwgU0dYIFJvb3Qg"
    "Q0ExGjAYBgNVBAoMEUludGVsIENvcnBvcmF0aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFyYTELMAkGA1UECAwCQ0ExCzAJBgNVBAYT"
    "AlVTMB4XDTE4MDUyMTEwNDUxMFoXDTQ5MTIzMTIzNTk1OVowaDEaMBgGA1UEAwwRSW50ZWwgU0dYIFJvb3QgQ0ExGjAYBgNVBAoM"
    "EUludGVsIENvcnBvcmF0aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFyYTELMAkGA1UECAwCQ0ExCzAJBgNVBAYTAlVTMFkwEwYHKoZI"
    "zj0CAQYIKoZIzj0DAQcDQgAEC6nEwMDIYZOj/iPWsCzaEKi71OiOSLRFhWGjbnBVJfVnkY4u3IjkDYYL0MxO4mqsyYjlBalTVYxF"
    "P2sJBK5zlKOBuzCBuDAfBgNVHSMEGDAWgBQiZQzWWp00ifODtJVSv1AbOScGrDBSBgNVHR8ESzBJMEegRaBDhkFodHRwczovL2Nl"
    "cnRpZmljYXRlcy50cnVzdGVkc2VydmljZXMuaW50ZWwuY29tL0ludGVsU0dYUm9vdENBLmRlcjAdBgNVHQ4EFgQUImUM1lqdNInz"
    "g7SVUr9QGzknBqwwDgYDVR0PAQH/BAQDAgEGMBIGA1UdEwEB/wQIMAYBAf8CAQEwCgYIKoZIzj0EAwIDSQAwRgIhAOW/5QkR+S9C"
    "iSDcNoowLuPRLsWGf/Yi7GSX94BgwTwgAiEA4J0lrHoMs+Xo5o/sX6O9QWxHRAvZUGOdRQ7cvqRXaqI="
)
#: What names it where a root is asked for.
INTEL = "intel"


#: A trusted root: the word ``intel``, PEM, DER, or a certificate that was parsed already.
Root = str | bytes | Certificate | x509.Certificate


def parse_roots(roots: Root | Iterable[Root]) -> tuple[Certificate, ...]:
    """Trusted roots of PEM, DER or hexadecimal DER certificates, or the word ``intel``. Raises UsageError.

    A certificate is trusted as a root only if it is self-issued and signed by its own key.
    """
    certificates: list[Certificate] = []
    for root in (roots,) if isinstance(roots, Root) else roots:
        if root == INTEL:
            certificates.append(certificate_of(INTEL_ROOT_DER))  # pinned: a test checks that it signs itself
            continue
        data = _octets(root)
        ders = split_pem(data) if b"-----BEGIN" in data else [data]
        certificates.extend(_root(der) for der in ders)
    if not certificates:
        raise UsageError("no trusted root", hint="name a root certificate, or 'intel'")
    return tuple(certificates)


def _octets(root: Root) -> bytes:
    if isinstance(root, Certificate):
        return root.der
    if isinstance(root, x509.Certificate):
        return root.public_bytes(Encoding.DER)
    data = root.encode() if isinstance(root, str) else bytes(root)
    try:
        return binascii.unhexlify(b"".join(data.split()))
    except binascii.Error:
        return data


def _root(der: bytes) -> Certificate:
    try:
        certificate = certificate_of(der)
    except CertificateFault as fault:
        raise UsageError(
            f"trusted root: no certificate: {fault}", hint="give a root certificate in PEM or DER"
        ) from None
    if not certificate.self_issued or not certificate.signed_by(certificate):
        raise UsageError(
            f"trusted root: {certificate.subject.common_name!r} is not signed by itself",
            hint="give the root certificate, not one below it",
        )
    return certificate

"""A signature that depends on image and key alone: the time in it is the certificate's, not that of the signing.

sbsign writes the time of day into each signature, and GRUB measures a kernel as a whole file: without this, RTMR2
would be another after each signing. Firmware looks at no time.

Source: PKCS #7 (RFC 2315), section 9.2; PKCS #9 (RFC 2985), signingTime; PE/COFF, section "Attribute Certificate
Table".
"""

from __future__ import annotations

import struct
from array import array

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tdxstack.errors import WireError
from tdxstack.wire.der import OCTET_STRING, SET, tlv
from tdxstack.wire.pe import PeImage

#: The attribute signingTime, up to the thirteen digits of its UTCTime.
_SIGNING_TIME = bytes.fromhex("06092a864886f70d010905310f170d")
_TIME_SIZE = 13
_ATTRIBUTES = 0xA0
_CERTIFICATE_HEADER = struct.Struct("<IHH")
_CHECKSUM_FROM_PE = 24 + 64


def with_certificates_time(image: bytes, key: bytes, certificate: bytes) -> bytes:
    """The image, its last signature (RSA, SHA-256) made anew at the time from which the certificate is valid.

    An image whose last signature is none of this key's, or of another form, is returned as it is.

    Args:
        key, certificate: PEM.
    """
    when = x509.load_pem_x509_certificate(certificate).not_valid_before_utc.strftime("%y%m%d%H%M%SZ").encode()
    try:
        private = load_pem_private_key(key, None)
        attributes, signature = _signer_info(image, _last_signature(image))
    except (WireError, LookupError, ValueError, TypeError, struct.error):
        return image
    before = image[attributes[0] : attributes[1]]
    at = before.find(_SIGNING_TIME)
    if at < 0 or not isinstance(private, RSAPrivateKey):
        return image
    at += len(_SIGNING_TIME)
    after = before[:at] + when + before[at + _TIME_SIZE :]
    try:
        private.public_key().verify(image[signature[0] : signature[1]], _set(before), PKCS1v15(), SHA256())
    except InvalidSignature:
        return image
    changed = bytearray(image)
    changed[slice(*attributes)] = after
    changed[slice(*signature)] = private.sign(_set(after), PKCS1v15(), SHA256())
    return _with_checksum(changed)


def _last_signature(image: bytes) -> int:
    """Where the DER of the last entry of the attribute certificate table begins."""
    start, size = PeImage.from_bytes(image).certificate_table
    position, found = start, 0
    while position + _CERTIFICATE_HEADER.size <= start + size:
        length = _CERTIFICATE_HEADER.unpack_from(image, position)[0]
        if length <= _CERTIFICATE_HEADER.size:
            break
        found = position + _CERTIFICATE_HEADER.size
        position += (length + 7) & ~7
    if not found:
        raise WireError("PE", "certificate table", start, "no signature")
    return found


def _signer_info(image: bytes, at: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where the signed attributes lie, tag included, and where the signature of the (only) signer."""
    _, content, _ = tlv(image, at)
    explicit = tlv(image, content)[2]
    signed_data = tlv(image, tlv(image, explicit)[1])
    signers = _children(image, signed_data[1], signed_data[2])[-1]
    if signers[0] != SET:
        raise IndexError("no signerInfos")
    info = tlv(image, tlv(image, signers[1])[1])
    parts = {tag: (start, end) for tag, start, end in _children(image, info[1], info[2])}
    value = tlv(image, parts[OCTET_STRING][0])
    return parts[_ATTRIBUTES], (value[1], value[2])


def _children(data: bytes, start: int, end: int) -> list[tuple[int, int, int]]:
    """Tag, offset of the tag and end of each value between two offsets."""
    found = []
    while start < end:
        tag, _, after = tlv(data, start)
        found.append((tag, start, after))
        start = after
    return found


def _set(attributes: bytes) -> bytes:
    """What is signed: the attributes as a SET, in place of their tag in the structure."""
    return bytes([SET]) + attributes[1:]


def _with_checksum(image: bytearray) -> bytes:
    """The image with its PE checksum: words added with carry, and the file's length."""
    at = int.from_bytes(image[0x3C:0x40], "little") + _CHECKSUM_FROM_PE
    image[at : at + 4] = bytes(4)
    total = sum(array("H", bytes(image) + bytes(len(image) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    image[at : at + 4] = (total + len(image)).to_bytes(4, "little")
    return bytes(image)

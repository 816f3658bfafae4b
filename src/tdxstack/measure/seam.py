"""Whether a TDX module is what its signature structure says, and who signed it.

P-SEAMLDR does the same before it loads one (Intel TDX Loader Interface Specification, SEAMLDR.INSTALL): the signature
over SEAM_SIGSTRUCT (RSA-3072, PKCS #1 v1.5, SHA-384), then SEAMHASH over the module. SEAMHASH becomes MRSEAM.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from tdxstack.wire.seam import SeamSigstruct

#: SHA-384 of the modulus (little-endian) that signs Intel's production modules.
INTEL_SIGNER = bytes.fromhex(
    "c8572f548869a0beca19376b81c2dffc2a23b5a5f71da0b87579b43f408daa1a33bad9c149eb56c634f883737968a34c"
)
#: DigestInfo of SHA-384 (RFC 8017, section 9.2, note 1).
_SHA384 = bytes.fromhex("3041300d060960864801650304020205000430")
_MODULUS_SIZE = 384


@dataclass(frozen=True, slots=True)
class ModuleCheck:
    """One point of the check."""

    name: str
    good: bool
    text: str


def check_module(sigstruct: SeamSigstruct, module: bytes, signer: bytes = INTEL_SIGNER) -> tuple[ModuleCheck, ...]:
    """Check digest, signature, signer and kind of a module.

    Args:
        signer: SHA-384 of the modulus that is trusted to sign modules.
    """
    digest = hashlib.sha384(module).digest()
    signed_by = hashlib.sha384(sigstruct.modulus).digest()
    return (
        ModuleCheck("digest", digest == sigstruct.seam_hash, f"SHA-384 of the module {digest.hex()}"),
        ModuleCheck("signature", signature_holds(sigstruct), "RSA-3072 over the signature structure"),
        ModuleCheck("signer", signed_by == signer, f"SHA-384 of the modulus {signed_by.hex()}"),
        ModuleCheck(
            "production", not sigstruct.debug, "a debug module" if sigstruct.debug else "a production module"
        ),
    )


def signature_holds(sigstruct: SeamSigstruct) -> bool:
    """Whether the structure's signature verifies by its own modulus."""
    modulus = int.from_bytes(sigstruct.modulus, "little")
    signature = int.from_bytes(sigstruct.signature, "little")
    if sigstruct.exponent != 65537 or modulus.bit_length() != 8 * _MODULUS_SIZE or signature >= modulus:
        return False
    encoded = pow(signature, sigstruct.exponent, modulus).to_bytes(_MODULUS_SIZE, "big")
    info = _SHA384 + hashlib.sha384(sigstruct.signed).digest()
    return encoded == b"\0\1" + b"\xff" * (_MODULUS_SIZE - len(info) - 3) + b"\0" + info
